"""DP-SGD for linear heads, against the engine's own clipping and against plain gradient descent."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit.training.clipping import clipped_sum
from labkit.training.linear import Head, head_logits, private_mean, train_heads
from labkit.training.stack import Stack


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(n=400, d=12, seed=0):
    g = gen(seed)
    x = torch.randn(n, d, generator=g)
    labels = (x[:, :10] + 0.3 * torch.randn(n, 10, generator=g)).argmax(1)
    return x, labels


def one_step(clip, x, labels):
    """Weights after one noiseless step of everything, at learning rate ``clip``: less the clipped mean gradient."""
    head = Head(1e-12, 1.0, 1, clip, clip, tail=1.0)
    return train_heads(x, labels, [head], 0)[0]


@pytest.mark.parametrize("clip", [0.5, 3.0, 100.0])
def test_one_step_is_the_engine_s_clipped_sum(clip):
    x, labels = problem()
    layer = nn.Linear(12, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    stack = Stack([layer])
    expected = stack.unflatten(clipped_sum(stack, x, labels, clip) / len(x))
    found = one_step(clip, x, labels)
    torch.testing.assert_close(found[:, :-1], -expected["weight"][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[:, -1], -expected["bias"][0], rtol=1e-4, atol=1e-6)


def test_an_example_moves_the_sum_by_at_most_the_clip():
    x, labels = problem()
    with_all, without = (one_step(0.7, *part) * n for part, n in (((x, labels), 400), ((x[1:], labels[1:]), 399)))
    assert (with_all - without).norm() <= 0.7 + 1e-4


def test_heads_beside_each_other_change_nothing():
    x, labels = problem()
    heads = [Head(0.8, 0.3, 6, 0.5, clip, tail=tail) for clip, tail in ((0.1, 0.5), (1.0, 0.25), (5.0, 1.0))]
    together = train_heads(x, labels, heads, 3)
    first = train_heads(x, labels, heads[:1], 3)
    torch.testing.assert_close(together[:1], first)
    assert not torch.equal(together[:1], train_heads(x, labels, heads[:1], 4))


def test_noise_has_the_scale_that_is_accounted():
    x, labels = torch.zeros(50, 400), torch.zeros(50, dtype=torch.long)
    found = train_heads(x, labels, [Head(3.0, 1.0, 1, 2.0, 2.0, tail=1.0)], 0)[0, :, :-1]
    assert found.std().item() == pytest.approx(3.0 * 2.0 / 50, rel=0.05)
    assert Head(2.0, 0.1, 5, 1.0, 1.0).steps == 50


def test_it_learns_at_a_loose_epsilon():
    x, labels = problem(2000)
    weights = train_heads(x, labels, [Head(1.0, 0.5, 30, 1.0, 1.0)], 0)
    assert (head_logits(weights, x)[0].argmax(1) == labels).float().mean() > 0.75


def test_heads_that_do_not_agree():
    x, labels = problem()
    with pytest.raises(ValueError, match="must agree"):
        train_heads(x, labels, [Head(1.0, 0.5, 1, 1.0, 1.0), Head(1.0, 0.25, 1, 1.0, 1.0)], 0)


def test_private_mean_clips_rows_and_adds_the_noise_that_is_accounted():
    x = torch.randn(300, 500, generator=gen())
    exact = private_mean(x, 1e3, 1e-12, 0)
    torch.testing.assert_close(exact, x.mean(0), rtol=1e-4, atol=1e-6)
    short = private_mean(x, 0.5, 1e-12, 0)
    torch.testing.assert_close(short, 0.5 * F.normalize(x, dim=1).mean(0), rtol=1e-4, atol=1e-6)
    noisy = private_mean(x, 0.5, 4.0, 0) - short
    assert noisy.std().item() == pytest.approx(4.0 * 0.5 / 300, rel=0.1)
