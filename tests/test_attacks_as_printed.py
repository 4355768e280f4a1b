"""Attacks held to what their papers print; restarts, the ball, and signs of a broken evaluation that must turn red."""

import pytest
import torch
from attacked import Linear, images, network
from torch import nn

from labkit.attacks import apgd, boundary_distance, correct, evaluate, fgsm, withstand
from labkit.attacks import doubts as doubts_module
from labkit.attacks.doubts import signs
from labkit.attacks.losses import targeted_dlr


def test_targeted_dlr_is_equation_6():
    logits = torch.tensor([[9.0, 6.0, 5.0, 1.0, 0.0]], dtype=torch.double)  # first 9, third 5, fourth 1
    found = targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    assert found.item() == pytest.approx((6 - 9) / (9 - (5 + 1) / 2))


class Lucky(nn.Module):
    """Wrong where the first pixel lies in the last quarter of the ball, and without a slope that leads there."""

    def forward(self, x):
        with torch.no_grad():
            beyond = (x.flatten(1)[:, :1] > 0.55).float()
        return torch.cat([1 - beyond, beyond], 1)


def test_restarts_of_apgd_start_anew():
    x, y = torch.full((400, 1, 2, 2), 0.5), torch.zeros(400, dtype=torch.long)
    for restarts in (1, 6):
        stands = correct(Lucky(), apgd(Lucky(), x, y, 0.1, steps=1, restarts=restarts), y).double().mean().item()
        assert stands == pytest.approx(0.75**restarts, abs=0.09)  # four standard errors


def naive_hyperplane(x, w, value):
    """Every pixel moves against value * w until the box, all at one pace: the pace that is enough, by bisection."""
    way = -w.sign() * (1 if value > 0 else -1)
    room = torch.where(way > 0, 1 - x, x)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        gained = (w.abs() * room.clamp(max=middle)).sum()
        low, high = (middle, high) if gained < abs(value) else (low, middle)
    return way * room.clamp(max=high)


def naive_fab(model, x, y, target, steps):
    """Algorithm 1 of Croce and Hein (2020b) for one point and class, as it is printed."""
    at, best = x.clone(), float("inf")
    found = None
    for _ in range(steps):
        z = at.clone().requires_grad_()
        logits = model(z[None])[0]
        value = logits[target] - logits[y]
        (w,) = torch.autograd.grad(value, z)
        value = value.item()
        near = naive_hyperplane(at, w, value)
        far = naive_hyperplane(x, w, value + (w * (x - at)).sum().item())
        a, b = near.abs().max(), far.abs().max()
        alpha = (a / (a + b)).clamp(max=0.1)
        at = ((1 - alpha) * (at + 1.05 * near) + alpha * (x + 1.05 * far)).clamp(0, 1)
        if model(at[None]).argmax(1).item() != y:
            if (at - x).abs().max() < best:
                best, found = (at - x).abs().max(), at
            at = x + 0.9 * (at - x)
    return found


def test_fab_is_the_printed_algorithm():
    model, x = network().double(), images(12).double()
    y, steps = model(x).argmax(1), 8
    distance = boundary_distance(model, x, y, steps=steps, targets=2)
    for i in range(12):
        order = model(x[i : i + 1])[0].scatter(0, y[i], -torch.inf).argsort(descending=True)[:2]
        met = [m for t in order.tolist() if (m := naive_fab(model, x[i], y[i].item(), t, steps)) is not None]
        assert bool(met) == bool(distance[i].isfinite())
        if not met:
            continue
        beyond, within = min(met, key=lambda m: (m - x[i]).abs().max()), x[i]
        for _ in range(10):
            middle = (within + beyond) / 2
            crossed = model(middle[None]).argmax(1).item() != y[i]
            within, beyond = (within, middle) if crossed else (middle, beyond)
        assert distance[i].item() == pytest.approx((beyond - x[i]).abs().max().item(), rel=1e-6)
    assert distance.isfinite().sum() > 6


def test_an_attack_that_leaves_the_ball_by_little_is_not_believed():
    model, x = network(), images(20) / 2 + 0.25
    with pytest.raises(ValueError, match="beyond the ball"):
        evaluate(model, x, model(x).argmax(1), {"cheat": lambda model, x, y, eps: x + 1.001 * eps}, 0.1)


@pytest.mark.parametrize(
    ("weak", "sign"),
    [
        (lambda eps, steps: eps > 0.05, "accuracy does not rise with eps"),
        (lambda eps, steps: steps == 20, "accuracy does not rise with steps"),
        (lambda eps, steps: True, "PGD is not weaker than FGSM"),
    ],
)
def test_an_attack_that_is_weaker_where_it_should_be_stronger_is_a_sign(weak, sign, monkeypatch):
    model, x = network(), images(60)
    y = model(x).argmax(1)

    def fickle(model, x, y, eps, *, steps, seed):
        return x if weak(eps, steps) else fgsm(model, x, y, eps)

    green = {check.name: check.passed for check in signs(model, x, y, 0.05)}
    monkeypatch.setattr(doubts_module, "pgd", fickle)
    red = {check.name: check.passed for check in signs(model, x, y, 0.05)}
    assert green[sign]
    assert not red[sign]


def test_what_withstands_is_found_in_eval_mode():
    model, x = Linear(dropout=0.5), images(40)
    y = model.eval()(x).argmax(1)
    expected = withstand(model, x, y, 0.03, steps=5)
    assert 0 < expected.sum() < 40
    assert torch.equal(withstand(model.train(), x, y, 0.03, steps=5), expected)
    assert model.dropout.training
