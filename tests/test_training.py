"""Training rules against naive loops, DP-SGD's promises measured, ensembles through the store."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labkit.data import Dataset, Split
from labkit.networks import build
from labkit.params import Params
from labkit.store import Store
from labkit.training import (
    REGIMES,
    Adversarial,
    Interval,
    Mean,
    Private,
    Recipe,
    Trades,
    epsilon,
    every_account,
    gradient_norms,
    noise_multiplier,
    train,
)
from labkit.training.accounting import composed, gaussian_epsilon, limit_mu, limit_noise, noise_beside
from labkit.training.clipping import clipped_sum
from labkit.training.dice import Dice
from labkit.training.loop import _batches, fit
from labkit.training.stack import Stack
from labkit.workers import Crew

CPU = torch.device("cpu")


def toy(n=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    labels = torch.arange(n) % 10
    split = Split(pixels, labels)
    return Dataset("toy", "toy", split, split, tuple("0123456789"), f"toy-{n}-{seed}")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def dice(seed=0, models=1):
    return Dice([seed + m for m in range(models)], "test")


def named(stack, flat, index=0):
    """A row of a flat gradient, by parameter name."""
    return {name: part[index] for name, part in stack.unflatten(flat).items()}


def alone(recipe, data=None, seed=0):
    """One model trained on all of the data."""
    data = data or toy(60)
    members = torch.ones(1, len(data.train), dtype=torch.bool)
    with Crew(2) as crew:
        return fit(build, recipe, data, members, [seed], CPU, crew=crew).states[0]


def naive_clipped_sum(model, x, y, clip):
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        gradient = dict(zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
        for name, g in gradient.items():
            total[name] += g * min(1.0, clip / norm)
    return total


# Per-example clipping


@settings(max_examples=12, deadline=None)
@given(clip=st.floats(0.01, 10), n=st.integers(1, 9), seed=st.integers(0, 1000), models=st.integers(1, 3))
def test_clipped_sum_equals_the_naive_loop(clip, n, seed, models):
    networks = [build(seed + m).double() for m in range(models)]  # ReLUs near zero fall either way in float32
    x = torch.rand(models * n, 1, 28, 28, generator=gen(seed)).double()
    y = torch.randint(0, 10, (models * n,), generator=gen(seed + 1))
    stack = Stack(networks)
    found = clipped_sum(stack, x, y, clip)
    for m, network in enumerate(networks):
        expected = naive_clipped_sum(network, x[m * n : (m + 1) * n], y[m * n : (m + 1) * n], clip)
        for name, value in named(stack, found, m).items():
            torch.testing.assert_close(value, expected[name])


def test_clipped_sum_on_other_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
        nn.GELU(),
        nn.MaxPool2d(3),
        nn.Conv2d(6, 40, 3),  # few positions, many weights: the norm comes from Gram matrices
        nn.Tanh(),
        nn.MaxPool2d(2, 3),
        nn.Flatten(),
        nn.Linear(80, 10),
    )
    x, y = torch.rand(5, 1, 28, 28), torch.arange(5)
    expected, stack = naive_clipped_sum(model, x, y, 0.3), Stack([model])
    for name, value in named(stack, clipped_sum(stack, x, y, 0.3)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_what_is_no_example_adds_nothing():
    stack, x = Stack([build(0)]), torch.rand(6, 1, 28, 28, generator=gen())
    y = torch.tensor([1, 2, 3, -100, -100, -100])
    for rule in (Mean(), Private(0.5, 1.0, 4), Interval(0.1), Adversarial(Mean(), 0.1, 2), Trades(6.0, 0.1, 2)):
        whole, part = rule.add(stack, x, y, dice(1)), rule.add(stack, x[:3], y[:3], dice(1))
        if not isinstance(rule, Adversarial | Trades):  # their draws depend on how many images there are
            torch.testing.assert_close(whole, part, rtol=1e-4, atol=1e-6)
        nothing = rule.add(stack, x, torch.full((6,), -100), dice(1))
        assert torch.equal(nothing, torch.zeros_like(nothing))


@pytest.mark.parametrize(
    "rule",
    [Mean(), Private(0.5, 1.0, 4), Adversarial(Private(0.5, 1.0, 4), 0.1, 1), Trades(6.0, 0.1, 1), Interval(0.1)],
)
def test_a_gradient_holds_no_graph(rule):
    # A step that keeps the graph of its gradient keeps those of all steps before it, until memory runs out.
    stack, x, y = Stack([build(0)]), torch.rand(4, 1, 28, 28, generator=gen()), torch.arange(4)
    total = rule.add(stack, x, y, dice())
    assert not total.requires_grad
    assert not rule.finish(total, torch.tensor([[4]]), dice()).requires_grad


def test_one_example_moves_the_sum_by_the_clip_at_most():
    stack, x, y = Stack([build(0)]), torch.rand(12, 1, 28, 28, generator=gen()), torch.arange(12) % 10
    clip = 0.5
    moved = (clipped_sum(stack, x, y, clip) - clipped_sum(stack, x[1:], y[1:], clip)).norm().item()
    assert moved <= clip * (1 + 1e-5)
    assert moved > 0.9 * clip  # a fresh network's gradients are longer than this


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, dilation=2),
        nn.Conv1d(1, 1, 1),
        nn.PReLU(),
    ],
)
def test_layers_that_cannot_be_stacked_are_refused(layer):
    with pytest.raises(TypeError, match="how to stack"):
        Stack([nn.Sequential(layer, nn.Flatten(), nn.Linear(784, 10))])


def test_a_layer_that_is_used_twice_trains_but_has_no_clipped_gradient():
    layer = nn.Linear(10, 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), layer, nn.ReLU(), layer)
    x, y = torch.rand(2, 1, 28, 28), torch.arange(2)
    stack = Stack([model])
    expected = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), list(model.parameters()))
    torch.testing.assert_close(Mean().add(stack, x, y, dice())[0], torch.cat([g.flatten() for g in expected]))
    with pytest.raises(TypeError, match="used twice"):
        clipped_sum(stack, x, y, 1.0)


# DP-SGD's rule


def test_noise_has_the_scale_that_is_accounted():
    rule, nothing = Private(clip=0.7, noise_multiplier=1.3, expected_batch=50), torch.zeros(2, 100_000)
    empty = torch.zeros(2, 1, dtype=torch.long)  # an empty Poisson batch is noise alone
    noise = rule.finish(nothing, empty, dice(1, models=2))
    expected = 1.3 * 0.7 / 50
    assert noise.std().item() == pytest.approx(expected, rel=0.01)
    assert abs(noise.mean().item()) < 4 * expected / math.sqrt(noise.numel())
    again = rule.finish(nothing, empty, dice(5, models=2))
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), again.flatten()]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(noise)[0, 1]) < 0.02  # two models' noise


def test_private_gradient_is_sum_plus_noise_over_expected_batch():
    stack, x, y = Stack([build(0)]), torch.rand(9, 1, 28, 28, generator=gen()), torch.arange(9)
    quiet = Private(clip=0.5, noise_multiplier=1e-12, expected_batch=32)
    total = sum(quiet.add(stack, x[part], y[part], dice()) for part in (slice(0, 4), slice(4, 9)))
    found = named(stack, quiet.finish(total, torch.tensor([[9]]), dice()))
    expected = naive_clipped_sum(build(0), x, y, 0.5)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name] / 32, rtol=1e-4, atol=1e-6)


def test_poisson_batches():
    recipe = Recipe("dp", Mean(), 1, 100, 0.1, sample_rate=0.1)
    sizes = torch.tensor([len(b) for b in _batches(recipe, torch.arange(1000), 3000, gen())], dtype=torch.float64)
    assert sizes.mean().item() == pytest.approx(100, abs=4 * math.sqrt(90 / 3000))
    assert sizes.var().item() == pytest.approx(90, rel=0.12)  # n q (1 - q); shuffled batches would have 0
    times = torch.zeros(1000)
    for batch in _batches(recipe, torch.arange(1000), 3000, gen(1)):
        assert len(batch.unique()) == len(batch)
        times[batch] += 1
    assert times.var().item() == pytest.approx(3000 * 0.1 * 0.9, rel=0.2)


def test_empty_poisson_batches_are_survived():
    recipe = Recipe(
        "dp", Private(1.0, 1.0, 1), epochs=1, batch_size=1, learning_rate=0.01, optimiser="sgd", sample_rate=0.05
    )
    assert any(len(b) == 0 for b in _batches(recipe, torch.arange(20), 20, gen()))
    assert all(p.isfinite().all() for p in alone(recipe, toy(20)).values())


# Accounting. Published: Abadi et al. (2016), MNIST, q = 0.01, sigma = 4, 10 000 steps: 1.26 by moments.


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta", "low", "high"),
    [
        (4.0, 0.01, 10_000, 1e-5, 0.8, 1.26),  # the moments accountant's published figure is an upper bound
        (8.82, 8192 / 60_000, 293, 1e-5, 0.97, 1.03),  # tight (PLD) noise for epsilon 1, 2, 3, 8
        (4.78, 8192 / 60_000, 293, 1e-5, 1.97, 2.05),
        (3.39, 8192 / 60_000, 293, 1e-5, 2.97, 3.05),
        (1.61, 8192 / 60_000, 293, 1e-5, 7.9, 8.1),
    ],
)
def test_epsilon_against_published_pairs(sigma, q, steps, delta, low, high):
    assert low <= epsilon(sigma, q, steps, delta) <= high
    assert epsilon(sigma, q, steps, delta, accountant="rdp") >= epsilon(sigma, q, steps, delta) - 0.02


# Bu, Dong, Long and Su (2020), table 1: MNIST, n = 60 000, batch 256, delta = 1e-5.
@pytest.mark.parametrize(
    ("sigma", "epochs", "mu", "limit", "moments"),
    [
        (1.3, 15, 0.23, 0.83, 1.19),
        (1.1, 60, 0.57, 2.32, 3.01),
        (0.7, 45, 1.13, 5.07, 7.10),
        (0.6, 62, 2.00, 9.98, 13.27),
        (0.55, 68, 2.76, 14.98, 18.72),
        (0.5, 100, 4.78, 31.12, 32.40),
    ],
)
def test_gaussian_limit_and_moments_against_published_pairs(sigma, epochs, mu, limit, moments):
    import numpy as np
    from opacus.accountants.analysis.rdp import compute_rdp

    q, steps = 256 / 60_000, epochs * 60_000 // 256
    assert limit_mu(sigma, q, steps) == pytest.approx(mu, abs=0.006)
    assert gaussian_epsilon(limit_mu(sigma, q, steps), 1e-5) == pytest.approx(limit, rel=0.01)
    # The published moments are turned into epsilon as Abadi et al. did; today's conversion is tighter.
    orders = np.array([1 + x / 10 for x in range(1, 100)] + list(range(12, 64)))
    classic = (
        compute_rdp(q=q, noise_multiplier=sigma, steps=steps, orders=orders) + math.log(1e5) / (orders - 1)
    ).min()
    assert classic == pytest.approx(moments, rel=0.015)
    assert epsilon(sigma, q, steps, 1e-5, accountant="rdp") <= moments


def test_mechanisms_beside_each_other_compose():
    # Without sampling they are Gaussian: mu adds in squares (Dong, Roth and Su 2022, corollary 2).
    both = composed(((2.0, 1.0, 1), (1.0, 1.0, 1)), 1e-5)
    assert both == pytest.approx(gaussian_epsilon(math.sqrt(0.25 + 1.0), 1e-5), abs=0.02)
    beside = ((30.0, 1.0, 1),)
    sigma = noise_beside(3.0, 0.1, 100, 1e-5, beside)
    assert 2.95 <= composed(((sigma, 0.1, 100), *beside), 1e-5) <= 3.0
    assert noise_multiplier(3.0, 0.1, 100, 1e-5) * 0.99 <= sigma <= noise_multiplier(3.0, 0.1, 100, 1e-5) * 1.02
    with pytest.raises(ValueError, match="nothing is left"):
        noise_beside(1.0, 0.1, 100, 1e-5, ((0.5, 1.0, 1),))


def test_every_account():
    found = every_account(3.39, 8192 / 60_000, 293, 1e-5)
    assert found["prv"] == pytest.approx(3.0, abs=0.05)
    assert found["gaussian limit"] < found["prv"] < found["rdp"] < found["shuffled"]
    exact = every_account(2.0, 1.0, 16, 1e-5)  # nothing is sampled: all but RDP are one Gaussian mechanism
    assert exact["gaussian limit"] == pytest.approx(gaussian_epsilon(2.0, 1e-5))
    assert exact["prv"] == pytest.approx(exact["gaussian limit"], abs=0.02)
    assert exact["shuffled"] == pytest.approx(exact["gaussian limit"])


@pytest.mark.parametrize("mu", [0.0, 0.01, 0.5, 3.0, 40.0])
def test_gaussian_epsilon_solves_its_equation(mu):
    from scipy.stats import norm

    e = gaussian_epsilon(mu, 1e-5)
    if e > 0:
        tail = math.exp(e + norm.logcdf(-e / mu - mu / 2))
        assert norm.cdf(mu / 2 - e / mu) - tail == pytest.approx(1e-5, rel=1e-4)
    else:
        assert mu <= 0.01
    with pytest.raises(ValueError, match="at least 0"):
        gaussian_epsilon(-1.0, 1e-5)


def test_without_sampling_epsilon_is_the_gaussian_mechanism_s_own():
    for sigma, steps in ((1000.0, 1), (1.0, 10_000), (0.02, 1)):
        assert epsilon(sigma, 1.0, steps, 1e-5) == gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5)
    sigma = noise_multiplier(0.005, 1.0, 1, 1e-5)
    assert 0.0049 < epsilon(sigma, 1.0, 1, 1e-5) <= 0.005


def test_where_delta_covers_every_draw_nothing_is_called_for():
    assert epsilon(0.1, 1e-6, 10, 1e-5) == 0.0 < epsilon(0.5, 1e-5, 10, 1e-5)
    with pytest.raises(ValueError, match="no noise is called for"):
        noise_multiplier(1.0, 1e-6, 10, 1e-5)


@pytest.mark.parametrize("arguments", [(math.inf, 0.5, 10, 1e-5), (1.0, 0.01, 1000, 1 - 1e-9)])
def test_what_the_accountant_cannot_do_is_told(arguments):
    with pytest.raises(ValueError, match=r"finite|finds no epsilon"):
        epsilon(*arguments)


def test_too_little_noise_hides_nothing():
    assert limit_mu(0.03, 0.01, 100) == gaussian_epsilon(math.inf, 1e-5) == math.inf
    for account in (limit_mu, every_account):
        with pytest.raises(ValueError, match="noise_multiplier = 0 must be positive"):
            account(0, 0.01, 100, *([1e-5] if account is every_account else []))


def test_gradient_norms_are_those_of_autograd():
    model = build(4)
    images, labels = torch.randint(0, 256, (70, 1, 28, 28), generator=gen()).to(torch.uint8), torch.arange(70) % 10
    found = gradient_norms(model, Split(images, labels))
    for i in (0, 1, 69):
        loss = torch.nn.functional.cross_entropy(model(images[i : i + 1].float() / 255), labels[i : i + 1])
        grads = torch.autograd.grad(loss, list(model.parameters()))
        assert found[i].item() == pytest.approx(torch.cat([g.flatten() for g in grads]).norm().item(), rel=1e-4)


def test_one_step_without_sampling_is_the_gaussian_mechanism():
    # Balle and Wang (2018), theorem 8: delta(eps) = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s).
    from scipy.optimize import brentq
    from scipy.stats import norm

    sigma, delta = 2.0, 1e-5
    exact = brentq(
        lambda e: norm.cdf(0.5 / sigma - e * sigma) - math.exp(e) * norm.cdf(-0.5 / sigma - e * sigma) - delta, 0, 20
    )
    assert epsilon(sigma, 1.0, 1, delta) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    ("target", "rate", "steps"),
    [(1.0, 0.04, 200), (8.0, 0.04, 200), (0.3, 0.001, 20), (8.0, 1.0, 3000), (20.0, 0.3, 1)],
)
def test_noise_multiplier_inverts_epsilon(target, rate, steps):
    sigma = noise_multiplier(target, rate, steps, 1e-5)
    assert 0 <= target - epsilon(sigma, rate, steps, 1e-5) < min(0.01, target / 200)


def test_an_epsilon_below_the_accountants_own_error_is_out_of_reach():
    with pytest.raises(ValueError, match="out of reach"):
        noise_multiplier(0.005, 0.04, 200, 1e-5)


def test_noise_where_little_is_left_and_where_epsilon_jumps():
    beside = ((30.0, 1.0, 1),)
    cost = composed(((1e5, 0.1, 100), *beside), 1e-5)
    sigma = noise_beside(1.001 * cost, 0.1, 100, 1e-5, beside)  # epsilon hardly falls with noise
    assert 0.995 * cost <= composed(((sigma, 0.1, 100), *beside), 1e-5) <= 1.001 * cost
    sigma = noise_multiplier(0.1, 0.5, 1, 0.3)  # at this delta epsilon falls to zero within little
    assert epsilon(sigma, 0.5, 1, 0.3) <= 0.1 < epsilon(0.99 * sigma, 0.5, 1, 0.3)


@given(epsilon=st.floats(0.1, 50), rate=st.sampled_from([0.001, 0.1, 1.0]), steps=st.integers(1, 5000))
def test_limit_noise_inverts_the_gaussian_limit(epsilon, rate, steps):
    sigma = limit_noise(epsilon, rate, steps, 1e-5)
    assert gaussian_epsilon(limit_mu(sigma, rate, steps), 1e-5) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize(
    "arguments", [(0, 0.1, 10, 1e-5), (1, 0, 10, 1e-5), (1, 1.5, 10, 1e-5), (1, 0.1, -1, 1e-5), (1, 0.1, 10, 0)]
)
def test_accounting_refuses_what_has_no_meaning(arguments):
    with pytest.raises(ValueError, match="must"):
        epsilon(*arguments)


# Adversarial training, and composition


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_adversarial_rule_is_its_inner_rule_at_attacked_inputs(spread):
    seen = {}

    class Spy:
        def add(self, stack, images, labels, dice):
            seen["images"] = images
            return Mean().add(stack, images, labels, dice)

    stack, x, y = Stack([build(3)]), torch.rand(16, 1, 28, 28, generator=gen()), torch.arange(16) % 10
    rule = Adversarial(Spy(), eps=0.1, steps=4, spread=spread)
    gradient = rule.add(stack, x, y, dice(5))
    attacked = seen["images"]
    moved = (attacked - x).abs().flatten(1).amax(1)  # the radius of each image, unless the box cut it everywhere
    assert moved.max() <= 0.1 * (1 + spread) + 1e-6
    assert moved.min() >= 0.1 * (1 - spread) - 1e-6
    assert (moved.std() > 0.01) == (spread > 0)
    assert F.cross_entropy(stack(attacked), y) > F.cross_entropy(stack(x), y)
    assert torch.equal(gradient, Mean().add(stack, attacked, y, dice()))


def test_an_attacked_example_moves_the_sum_by_the_clip_at_most():
    """Its attack reads no other example: those beside it add what they add without it."""
    stack, x, y = Stack([build(0)]), torch.rand(12, 1, 28, 28, generator=gen()), torch.arange(12) % 10
    without = torch.where(torch.arange(12) == 5, -100, y)
    rule = Adversarial(Private(0.5, 1.0, 12), eps=0.2, steps=3)
    moved = (rule.add(stack, x, y, dice()) - rule.add(stack, x, without, dice())).norm().item()
    assert 0.9 * 0.5 < moved <= 0.5 * (1 + 1e-5)


def test_adversarial_training_composes_with_privacy():
    rule = Adversarial(Private(0.3, 1.0, 40), eps=0.1, steps=2)
    recipe = Recipe("both", rule, 1, 20, 0.05, optimiser="sgd", sample_rate=1 / 3)
    assert all(p.isfinite().all() for p in alone(recipe).values())
    assert recipe.guarantee(1e-5) == pytest.approx(epsilon(1.0, 1 / 3, 3, 1e-5))
    assert replace(recipe, sample_rate=None).guarantee(1e-5) is None  # shuffled batches prove nothing here


# Ensembles


def recipe_for(regime):
    p = Params(train_size=200, train_steps=2, dp_epochs=1, dp_batch_size=32, batch_size=16)
    return REGIMES[regime](p, 40, 2)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_model_does_not_depend_on_the_models_beside_it(regime, tmp_path):
    data, members = toy(60), torch.rand(3, 60, generator=gen()) < 0.7
    three = train(recipe_for(regime), data, members, seed=1, store=Store(tmp_path / "a"), device=CPU)
    two = train(recipe_for(regime), data, members[:2], seed=1, store=Store(tmp_path / "b"), device=CPU)
    for a, b in zip(three.states, two.states, strict=False):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(three.states[0]["head.0.weight"], three.states[1]["head.0.weight"])


def test_asking_twice_trains_once_and_gives_the_same(tmp_path):
    data, members, opened, images = toy(60), torch.ones(1, 60, dtype=torch.bool), [], []

    @contextmanager
    def bar(total):
        opened.append(total)
        yield images.append

    call = {"seed": 3, "store": Store(tmp_path), "device": CPU, "watch": True, "bar": bar}
    first = train(recipe_for("standard"), data, members, **call)
    second = train(recipe_for("standard"), data, members, **call)
    assert opened == [sum(images)]
    assert sum(images) > 0
    assert second.histories == first.histories
    assert len(first.histories[0]) == 2
    torch.testing.assert_close(first.logits(data.test), second.logits(data.test), rtol=0, atol=0)


def test_a_model_learns_its_members_and_not_the_others(tmp_path):
    data = toy(60)
    members = torch.zeros(1, 60, dtype=torch.bool)
    members[0, :30] = True
    recipe = Recipe("standard", Mean(), 60, 10, 3e-3)
    model = train(recipe, data, members, seed=0, store=Store(tmp_path), device=CPU)
    right = (model.logits(data.train)[0].argmax(1) == data.train.labels).double()
    assert right[:30].mean() == 1.0  # random pixels, learned by heart
    assert right[30:].mean() < 0.5


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (torch.ones(1, 59, dtype=torch.bool), "need bool"),
        (torch.ones(1, 60), "need bool"),
        (torch.zeros(1, 60, dtype=torch.bool), "empty"),
    ],
)
def test_members_that_do_not_fit(members, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(recipe_for("standard"), toy(60), members, seed=0, store=Store(tmp_path), device=CPU)


def test_divergence_is_said(tmp_path):
    recipe = Recipe("standard", Mean(), 3, 10, 1e30, optimiser="sgd")
    with pytest.raises(FloatingPointError, match="lower"):
        alone(recipe)
