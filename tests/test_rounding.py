"""Certified bounds hold in float32: what each layer may round, against what it does round."""

import pytest
import torch
from torch import nn

from labkit.attacks import correct
from labkit.bounds import FLOAT32, _through, certified, passed, worst_logits
from labkit.networks import Scale


@pytest.mark.parametrize("layer", [nn.Linear(50, 7), nn.Conv2d(5, 3, (2, 5), bias=False)])
def test_the_rounding_of_sums_is_that_of_as_many_terms(layer):
    """Higham (2002), section 3.1: n products and a bias, in any order, are off by (n + 1) u of their sizes' sum."""
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(4, 50, dtype=torch.double) if isinstance(layer, nn.Linear) else torch.randn(4, 5, 2, 5).double()
    _, exact = _through(layer, x, torch.zeros_like(x), 0.0)
    _, widened = _through(layer, x, torch.zeros_like(x), FLOAT32)
    size = layer.weight.flatten(1).abs() @ x.flatten(1).abs().T  # [O, 4]
    size = size + (0 if layer.bias is None else layer.bias.abs()[:, None])
    assert (exact == 0).all()
    assert (51 * FLOAT32 * size <= widened.flatten(1).T).all()
    assert (54 * FLOAT32 * size + 1e-30 >= widened.flatten(1).T).all()


def test_the_last_layers_rounding_is_that_of_both_logits():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(50, 4)).double(), torch.rand(6, 1, 5, 10).double()
    y = torch.arange(6) % 4
    plain, widened = (worst_logits(passed(model), x, 0.0, y, rounding=r) for r in (0.0, FLOAT32))
    size = x.flatten(1) @ model[1].weight.abs().T + model[1].bias.abs()  # [6, 4]
    both = size + size.gather(1, y[:, None])
    apart = (widened - plain).scatter(1, y[:, None], 0.0)
    assert (apart >= 51 * FLOAT32 * both.scatter(1, y[:, None], 0.0)).all()


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.Sigmoid()])
def test_what_an_activation_rounds_is_covered(layer):
    x = torch.linspace(-4, 4, 2001)[None]
    _, widened = _through(layer, x.double(), torch.zeros_like(x).double(), FLOAT32)
    off = (layer(x).double() - layer(x.double())).abs()
    assert off.max() > 0
    assert (off <= widened).all()


def test_a_pixel_that_float32_puts_beyond_the_ball_is_covered():
    """The ball's end is rounded up, and the boundary lies between it and what was rounded. 2 x - 1 is near 0 there: a
    network's own rounding, relative to what passes, is smaller."""
    eps, x = 0.001, torch.linspace(0.499, 0.5, 1001)
    beyond = (x + eps).double() - (x.double() + eps)
    x, gap = x[beyond.argmax()].view(1, 1, 1, 1), beyond.max().item()
    assert gap > 1e-8
    model, y = nn.Sequential(Scale(), nn.Flatten(), nn.Linear(1, 2)), torch.tensor([0])
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[-1.0], [0.0]]))
        model[2].bias.copy_(torch.tensor([2 * (x.double().item() + eps + gap / 2) - 1, 0.0]))
    assert not correct(model, x + eps, y)  # where attacks may go
    assert not certified(model, x, y, eps)
    assert certified(model, x, y, 0.99 * eps)
