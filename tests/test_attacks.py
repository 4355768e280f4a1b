"""Attacks against a five-line reference, a linear model's exact worst case, and their promises."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labkit.attacks import (
    apgd,
    apgd_targeted,
    ascend,
    correct,
    evaluate,
    fab_targeted,
    fgsm,
    input_gradient,
    pgd,
    square,
    withstand,
)
from labkit.attacks.balls import BALLS


class Linear(nn.Module):
    """Two classes, logits (0, w.x + b): the worst case in the ball is known exactly."""

    def __init__(self, seed: int, dropout: float = 0.0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(784, generator=g) / 20)  # no saturated softmax
        self.b = nn.Parameter(-self.w.detach().sum() / 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        score = self.dropout(x.flatten(1)) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], 1)

    def worst_case(self, x, y, eps):
        direction = (1 - 2 * y).view(-1, 1, 1, 1) * self.w.detach().view(1, 1, 28, 28).sign()
        return (x + eps * direction).clamp(0, 1)


def images(n=40, seed=0):
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def small_cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 10))


def reference_pgd(model, x, y, eps, steps, step_size, start):
    adv = start.clone()
    for _ in range(steps):
        adv.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = torch.max(torch.min(adv.detach() + step_size * g.sign(), x + eps), x - eps).clamp(0, 1)
    return adv


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd restarts"])
def test_linear_model_worst_case_is_found(attack, eps):
    model, x = Linear(1), images()
    y = model(x).argmax(1)
    calls = {
        "fgsm": lambda: fgsm(model, x, y, eps),
        "pgd": lambda: pgd(model, x, y, eps, steps=10),
        "pgd restarts": lambda: pgd(model, x, y, eps, steps=10, restarts=3),
    }
    found = calls[attack]()
    exact = model.worst_case(x, y, eps)
    loss = lambda z: F.cross_entropy(model(z), y, reduction="none")  # noqa: E731
    if attack == "pgd restarts":  # a restart stops working on a point that is already broken
        assert torch.equal(correct(model, found, y), correct(model, exact, y))
    else:
        torch.testing.assert_close(loss(found), loss(exact), rtol=1e-4, atol=1e-4)


def test_pgd_equals_the_five_line_reference():
    model, x = small_cnn(), images(30)
    y = torch.randint(0, 10, (30,), generator=torch.Generator().manual_seed(3))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(7))
    start = (x + 0.1 * (2 * noise - 1)).clamp(0, 1)
    expected = reference_pgd(model, x, y, 0.1, 8, 0.02, start)
    torch.testing.assert_close(pgd(model, x, y, 0.1, steps=8, step_size=0.02, seed=7), expected)


def test_fgsm_equals_one_reference_step():
    model, x = small_cnn(), images(30)
    y = torch.arange(30) % 10
    torch.testing.assert_close(fgsm(model, x, y, 0.2), reference_pgd(model, x, y, 0.2, 1, 0.2, x))


@settings(max_examples=25, deadline=None)
@given(eps=st.floats(0, 1), steps=st.integers(1, 6), seed=st.integers(0, 2**31 - 1), restarts=st.integers(1, 2))
def test_ball_and_box_are_respected(eps, steps, seed, restarts):
    x = images(5, seed % 100)
    y = torch.arange(5)
    for found in (fgsm(small_cnn(), x, y, eps), pgd(small_cnn(), x, y, eps, steps=steps, restarts=restarts, seed=seed)):
        assert (found - x).abs().max() <= eps + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1


def test_restarts_only_make_it_stronger_and_seeds_repeat():
    model, x = small_cnn(5), images(60)
    y = model(x).argmax(1)
    one = pgd(model, x, y, 0.02, steps=3, restarts=1, seed=1)
    many = pgd(model, x, y, 0.02, steps=3, restarts=6, seed=1)
    assert not (correct(model, many, y) & ~correct(model, one, y)).any()
    assert torch.equal(many, pgd(model, x, y, 0.02, steps=3, restarts=6, seed=1))
    assert not torch.equal(one, pgd(model, x, y, 0.02, steps=3, seed=2))


@pytest.mark.parametrize("restarts", [1, 3])
def test_what_withstands_is_right_at_every_iterate(restarts):
    model, x = small_cnn(), images(80)
    y = model(x).argmax(1)
    generator = torch.Generator().manual_seed(4)
    stands = torch.ones(80, dtype=torch.bool)
    for _ in range(restarts):
        start = (x + 0.03 * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
        for steps in range(7):
            stands &= model(reference_pgd(model, x, y, 0.03, steps, 0.01, start)).argmax(1) == y
    found = withstand(model, x, y, 0.03, steps=6, step_size=0.01, restarts=restarts, seed=4)
    assert torch.equal(found, stands)
    assert 0 < found.sum() < 80
    last = correct(model, pgd(model, x, y, 0.03, steps=6, step_size=0.01, restarts=restarts, seed=4), y)
    assert not (found & ~last).any()


def test_result_does_not_depend_on_chunking(monkeypatch):
    model, x = small_cnn(), images(50)
    y = torch.arange(50) % 10
    whole = pgd(model, x, y, 0.1, steps=4, restarts=2)
    monkeypatch.setattr("labkit.workers.PIECE", 7)
    torch.testing.assert_close(pgd(model, x, y, 0.1, steps=4, restarts=2), whole)


def test_model_is_left_as_it_was_and_attacked_in_eval_mode():
    model, x = Linear(0, dropout=0.5), images(10)
    y = torch.zeros(10, dtype=torch.long)
    model.train()
    model.w.grad = torch.ones(784)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = fgsm(model, x, y, 0.1)
    torch.testing.assert_close(found, model.worst_case(x, y, 0.1))  # dropout would zero half of the signs
    assert model.training
    assert model.dropout.training
    assert torch.equal(model.w.grad, torch.ones(784))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(fgsm(model, x, y, 0.1), found)


def test_gradient_of_an_image_does_not_depend_on_its_batch():
    model, x = small_cnn(), images(8)
    y = torch.arange(8)
    alone = torch.cat([input_gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(input_gradient(model, x, y), alone)


def test_a_zero_radius_changes_nothing():
    x = images(4)
    assert torch.equal(pgd(small_cnn(), x, torch.arange(4), 0.0, steps=3), x)
    assert torch.equal(ascend(small_cnn(), x, torch.arange(4), 0.1, 0, 0.1, x), x)


def test_empty_batch():
    empty = torch.zeros(0, 1, 28, 28)
    assert pgd(small_cnn(), empty, torch.zeros(0, dtype=torch.long), 0.1, steps=2).shape == empty.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": images(4) * 255}, "divide|normalisation inside"),
        ({"images": images(4) - 0.5}, "not within"),
        ({"images": images(4) * float("nan")}, "not within"),
        ({"images": (images(4) * 255).to(torch.uint8)}, "divide bytes by 255"),
        ({"labels": torch.arange(3)}, "one label an image"),
        ({"labels": torch.arange(4)[:, None]}, "one label an image"),
        ({"labels": torch.arange(4).int()}, "labels.long"),
        ({"labels": torch.tensor([0, 1, 2, -100])}, "counted from 0"),
        ({"labels": torch.zeros(4, dtype=torch.long, device="meta")}, "move one"),
        ({"eps": 8}, "divide by 255"),
        ({"eps": -0.1}, "must lie in"),
        ({"eps": float("nan")}, "must lie in"),
        ({"steps": 0}, "at least 1"),
        ({"restarts": 0}, "at least 1"),
        ({"step_size": -1.0}, "positive"),
    ],
)
def test_bad_input_is_named(change, message):
    call = {"images": images(4), "labels": torch.arange(4), "eps": 0.1, "steps": 2} | change
    with pytest.raises(ValueError, match=message):
        pgd(small_cnn(), call.pop("images"), call.pop("labels"), call.pop("eps"), **call)


def test_accuracy_is_not_broadcast():
    with pytest.raises(ValueError, match="one label an image"):
        correct(small_cnn(), images(4), torch.arange(4)[:, None])


EVERY = {
    "correct": correct,
    "evaluate": partial(evaluate, attacks={}, eps=0.1),
    "withstand": partial(withstand, eps=0.1, steps=2),
    "fgsm": partial(fgsm, eps=0.1),
    "pgd": partial(pgd, eps=0.1, steps=2),
    "apgd": partial(apgd, eps=0.1, steps=2),
    "apgd_t": partial(apgd_targeted, eps=0.1, steps=2),
    "fab_t": partial(fab_targeted, eps=0.1, steps=2),
    "square": partial(square, eps=0.1, queries=50),
}


@pytest.mark.parametrize("name", EVERY)
def test_classes_that_do_not_fit_are_named(name):
    with pytest.raises(ValueError, match="a label is 10, but the model has 10 classes"):
        EVERY[name](small_cnn(), images(4), torch.tensor([0, 1, 2, 10]))
    with pytest.raises(ValueError, match="the model has 1 class"):
        EVERY[name](nn.Sequential(nn.Flatten(), nn.Linear(images(4)[0].numel(), 1)), images(4), torch.zeros(4).long())


class Sick(nn.Module):
    """Right on every image that is dark, and not a number on others."""

    def forward(self, x):
        level = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([1 - level, level], 1).where(level < 0.5, math.nan)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("correct", "evaluate")])
def test_a_model_that_has_no_answer_is_wrong(name):
    x, y = torch.full((4, 1, 8, 8), 0.49), torch.zeros(4, dtype=torch.long)
    assert correct(Sick(), x, y).all()
    assert not correct(Sick(), x + 0.1, y).any()
    found = EVERY[name](Sick(), x, y)
    stood = found if name == "withstand" else correct(Sick(), found, y)
    assert not stood.any()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("correct", "evaluate", "withstand")])
def test_attacks_leave_the_images_graph_and_the_threads_precision(name):
    x, y = images(70), torch.arange(70) % 10
    found = EVERY[name](small_cnn(), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(EVERY[name](small_cnn(), x.clone().requires_grad_(), y), found)
    assert not found.requires_grad


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("correct", "evaluate")])
def test_where_nothing_has_a_gradient_no_image_stands_for_that(name):
    x, y = images(4), torch.arange(4)
    with torch.inference_mode(), pytest.raises(ValueError, match="nothing has a gradient"):
        EVERY[name](small_cnn(), x, y)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "evaluate"])
def test_a_model_that_computes_in_float64_is_attacked_as_another(name):
    class Precise(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_cnn().double()

        def forward(self, x):
            return self.inner(x.double())

    x, y = images(20), torch.arange(20) % 10
    found, usual = (EVERY[name](model, x, y) for model in (Precise(), small_cnn()))
    assert found.dtype == usual.dtype
    assert (found != usual).double().mean() < 0.05


def test_a_model_without_gradients_is_left_to_the_attack_that_needs_none():
    class Stairs(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                level = (100 * x.flatten(1).mean(1, keepdim=True)).round()
            return torch.cat([50 - level, level - 50], 1)

    x, y = torch.full((4, 1, 8, 8), 0.47), torch.zeros(4, dtype=torch.long)
    found = evaluate(Stairs(), x, y, {"pgd": partial(pgd, steps=3), "apgd": apgd, "square": square}, 0.05)
    assert not found.stands.any()
    assert found.fell["square"].sum() + found.fell["pgd"].sum() + found.fell["apgd"].sum() == 4


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_steepest_step_has_unit_length_however_flat_the_loss(scale):
    step = BALLS["l2"].steepest(scale * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(BALLS["l2"].length(step), torch.ones(5))
    assert (BALLS["l2"].steepest(torch.zeros(1, 1, 8, 8)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_evaluation_judges_in_the_images_own_format(dtype):
    model, x = Linear(1).to(dtype), images().to(dtype)
    y = model(x).argmax(1)
    found = evaluate(model, x, y, {"pgd": partial(pgd, steps=5)}, 0.1)
    assert found.images.dtype == dtype
    assert found.fell["pgd"].sum() > 0
