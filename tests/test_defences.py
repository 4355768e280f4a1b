"""Defences against one radius: their gradients against naive ones, what is kept, what is proved."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit.attacks import correct, fgsm, withstand
from labkit.data import DataError, Dataset, Split
from labkit.lab import Lab
from labkit.networks import build
from labkit.params import Params
from labkit.store import Store
from labkit.training import DEFENCES, REGIMES, Adversarial, Blend, Interval, Mean, Recipe, Trades, train
from labkit.training import loop as loop_module
from labkit.training.dice import Dice
from labkit.training.loop import fit
from labkit.training.stack import Stack
from labkit.training.watch import Progress, restored
from labkit.workers import Crew

CPU = torch.device("cpu")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(n=150, seed=0):
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=gen(seed), dtype=torch.uint8)
    split = Split(pixels, torch.arange(n) % 10)
    return Dataset("toy", "toy", split, split, tuple("0123456789"), f"toy-{n}-{seed}")


def batch(models, each=6):
    x = torch.rand(models * each, 1, 28, 28, generator=gen(1)).double()
    return x, torch.randint(0, 10, (models * each,), generator=gen(2))


def gradient(network, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


# TRADES


@pytest.mark.parametrize("models", [1, 2])
def test_trades_equals_the_naive_gradient(models):
    networks = [build(m).double() for m in range(models)]
    x, y = batch(models)
    beta, eps, steps = 5.0, 0.1, 3
    dice = lambda: Dice(list(range(models)), "test")  # noqa: E731
    found = Trades(beta, eps, steps).add(Stack(networks), x, y, dice())
    noise = dice().uniform(*x.shape)
    for m, network in enumerate(networks):
        part = slice(6 * m, 6 * m + 6)
        images, labels = x[part], y[part]
        fixed = network(images).softmax(1).detach()
        moved = (images + eps * (2 * noise[part] - 1)).clamp(0, 1)
        for _ in range(steps):
            moved.requires_grad_()
            divergence = F.kl_div(network(moved).log_softmax(1), fixed, reduction="sum")
            (slope,) = torch.autograd.grad(divergence, moved)
            moved = moved.detach() + 1.5 * eps / steps * slope.sign()
            moved = moved.clamp(images - eps, images + eps).clamp(0, 1)
        p, q = network(images).softmax(1), network(moved).softmax(1)
        loss = F.cross_entropy(network(images), labels, reduction="sum") + beta * (p * (p / q).log()).sum()
        torch.testing.assert_close(found[m], gradient(network, loss))


def test_trades_attack_raises_the_divergence_and_stays_in_ball_and_box(monkeypatch):
    seen, (x, y) = [], batch(1)
    stack = Stack([build(3).double()])
    call = type(stack).forward
    monkeypatch.setattr(type(stack), "forward", lambda self, images: seen.append(images.detach()) or call(self, images))
    Trades(1.0, 0.2, 5).add(stack, x, y, Dice([0], "test"))
    clean, first, last = seen[0], seen[1], seen[-1]
    assert torch.equal(clean, x)
    assert (last - x).abs().max() <= 0.2 + 1e-12
    assert 0 <= last.min() <= last.max() <= 1
    divergence = lambda z: F.kl_div(stack(z).log_softmax(1), stack(x).softmax(1), reduction="sum").item()  # noqa: E731
    assert divergence(last) > divergence(first) > 0


# Intervals


def naive_interval_loss(network, images, labels, eps, kappa):
    low, high = 2 * (images - eps).clamp(min=0) - 1, 2 * (images + eps).clamp(max=1) - 1
    for layer in [*network.features, "flat", *network.head]:
        if layer == "flat":
            low, high = (z.permute(0, 2, 3, 1).flatten(1) for z in (low, high))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            last = low, high
            plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            if isinstance(layer, nn.Linear):
                apply = lambda z, w, b: F.linear(z, w, b)  # noqa: E731
            else:
                apply = lambda z, w, b, layer=layer: F.conv2d(z, w, b, layer.stride, layer.padding)  # noqa: E731
            low, high = (
                apply(low, plus, layer.bias) + apply(high, minus, None),
                apply(high, plus, layer.bias) + apply(low, minus, None),
            )
        else:
            low, high = layer(low), layer(high)
    low, high = last
    weight, bias = network.head[-1].weight, network.head[-1].bias
    worst = []
    for i, label in enumerate(labels):  # the last layer together with the difference of logits
        apart, shift = weight - weight[label], bias - bias[label]
        worst.append(apart.clamp(min=0) @ high[i] + apart.clamp(max=0) @ low[i] + shift)
    losses = [F.cross_entropy(z, labels, reduction="sum") for z in (network(images), torch.stack(worst))]
    return kappa * losses[0] + (1 - kappa) * losses[1]


@pytest.mark.parametrize(
    ("age", "eps", "kappa"), [(0.1, 0.0, 1.0), (0.4, 0.05, 0.65), (0.6, 0.1, 0.3), (1.0, 0.1, 0.3)]
)
def test_interval_equals_the_naive_gradient(age, eps, kappa):
    networks = [build(m).double() for m in range(2)]
    x, y = batch(2)
    stack = Stack(networks)
    stack.age.fill_(age)
    found = Interval(0.1, 0.3, (0.2, 0.6)).add(stack, x, y, Dice([0, 1], "test"))
    for m, network in enumerate(networks):
        part = slice(6 * m, 6 * m + 6)
        expected = gradient(network, naive_interval_loss(network, x[part], y[part], eps, kappa))
        torch.testing.assert_close(found[m], expected)


def test_the_loop_tells_each_model_its_age():
    ages = []

    class Spy(Mean):
        def add(self, stack, images, labels, dice):
            ages.append(stack.age[:, 0].tolist())
            return super().add(stack, images, labels, dice)

    members = torch.ones(2, 64, dtype=torch.bool)
    members[1, 32:] = False
    with Crew(1) as crew:
        fit(build, Recipe("standard", Spy(), 2, 16, 1e-3), toy(64), members, [0, 1], CPU, crew=crew)
    assert ages == [[age] for t in range(8) for age in (t / 8, min(1.0, t / 4))]


# What is kept


ROBUST = Recipe("pgd", Adversarial(Mean(), 0.1, 2), 4, 16, 3e-3, keep="best", eps=0.1)


def test_the_best_checkpoint_is_kept_and_the_first_of_equals(monkeypatch):
    seen, robust = [], {0: [0.1, 0.4, 0.4, 0.2], 1: [0.3, 0.0, 0.2, 0.1]}

    def scripted(network, state, data, mine, epoch, **_):
        seen.append({name: part.clone() for name, part in state.items()})
        return Progress(epoch, 0.0, 0.0, 0.0, 0.0, 0.9, robust[(len(seen) - 1) % 2][epoch - 1])

    monkeypatch.setattr(loop_module, "look", scripted)
    members = torch.ones(2, 64, dtype=torch.bool)
    members[:, :10] = False
    with Crew(1) as crew:
        found = fit(build, ROBUST, toy(64), members, [0, 1], CPU, crew=crew, validation=torch.arange(10))
    for model, best in enumerate((1, 0)):
        expected = seen[2 * best + model]
        assert all(torch.equal(found.states[model][name], expected[name]) for name in expected)
        assert [p.validation_robust for p in found.histories[model]] == robust[model]


def test_what_is_watched_is_what_is_kept_average_and_all():
    data, members, held_out = toy(), torch.ones(1, 150, dtype=torch.bool), torch.arange(40)
    members[:, :40] = False
    recipe = replace(ROBUST, average=0.9)
    with Crew(2) as crew:
        found = fit(build, recipe, data, members, [3], CPU, crew=crew, validation=held_out)
        last = fit(build, replace(recipe, keep="last"), data, members, [3], CPU, crew=crew, validation=held_out)
        plain = fit(build, replace(recipe, average=0.0), data, members, [3], CPU, crew=crew, validation=held_out)
    x, y = data.train.batch(held_out)
    stand = withstand(restored(build, found.states[0]), x, y, 0.1, steps=10, seed=0).double().mean().item()
    assert stand == max(p.validation_robust for p in found.histories[0])
    assert found.histories == last.histories
    assert found.histories != plain.histories


def test_the_best_needs_something_to_choose_on(tmp_path):
    members = torch.ones(1, 60, dtype=torch.bool)
    call = {"seed": 0, "store": Store(tmp_path), "device": CPU}
    with pytest.raises(ValueError, match="validation images"):
        train(ROBUST, toy(60), members, **call)
    with pytest.raises(ValueError, match="hold them out"):
        train(ROBUST, toy(60), members, validation=members[0], **call)


# Recipes, and the lab that trains them


def small(**more):
    given = {"dataset": "digits", "train_size": 300, "test_size": 100, "batch_size": 32, "train_steps": 2}
    return Params(**given | {"robust_epochs": 2, "ibp_epochs": 2, "dp_epochs": 2, "dp_batch_size": 64} | more)


@pytest.mark.parametrize("models", [1, 2])
def test_a_blend_is_a_sum_of_weighted_losses(models):
    networks = [build(m).double() for m in range(models)]
    x, y = batch(models)
    stack, dice = Stack(networks), lambda: Dice(list(range(models)), "test")
    stack.age.fill_(1.0)
    attack, bound = Adversarial(Mean(), 0.1, 2), Interval(0.1, kappa=0)
    blend = Blend(attack, bound, 0.25)
    parts = [rule.add(stack, x, y, dice()) for rule in (attack, bound)]
    torch.testing.assert_close(blend.add(stack, x, y, dice()), 0.75 * parts[0] + 0.25 * parts[1])
    counts = torch.full((models, 1), 6)
    torch.testing.assert_close(blend.finish(parts[0].clone(), counts, dice()), parts[0] / 6)


def test_private_adversarial_training_is_proved_as_private_training_is():
    p = small()
    both, private = DEFENCES["dp_pgd"](p, 200, 0.1), REGIMES["dp"](p, 200, p.dp_epochs)
    assert both.guarantee(1e-5) == private.guarantee(1e-5) <= p.dp_epsilon
    assert both.eps == 0.1
    assert private.eps is None
    assert REGIMES["pgd"](p, 200, 1).eps is None  # radii are spread
    assert REGIMES["pgd"](small(train_spread=0), 200, 1).eps is None  # and a regime is no defence if they are not


def test_a_recipe_makes_its_network():
    standard, private = (REGIMES[regime](small(dp_black=0), 200, 1).network(3) for regime in ("standard", "dp"))
    black = torch.zeros(1, 1, 28, 28)
    assert standard.scale(black).eq(-1).all()
    assert private.scale(black).eq(0).all()
    assert repr(standard.scale) != repr(private.scale)  # what a stored model's key knows of it
    assert standard.features[1].out_channels == 2 * private.features[1].out_channels
    assert {type(layer) for layer in private.features} == {nn.PixelUnshuffle, nn.Conv2d, nn.Tanh}


@pytest.mark.parametrize("regime", DEFENCES)
def test_the_lab_trains_a_defence_at_a_radius(regime, tmp_path):
    lab = Lab(small(robust_width=2, robust_hidden=24, robust_mirror=False), Store(tmp_path))
    found = lab.classifiers(regime, eps=0.2)
    assert lab.classifiers(regime, eps=0.2) is found
    assert not (found.members & lab.validation).any()
    assert lab.validation.sum() == 15
    assert found.recipe.regime == regime
    if regime in ("pgd", "trades", "ibp", "mtl_ibp"):  # the others have a network of their own
        assert found.recipe.mirror is False
        assert [found.states[0][f"head.{layer}.weight"].shape for layer in (0, 2)] == [(24, 16 * 128), (10, 24)]
    assert lab.facts(found)["train_eps"] == 0.2
    assert ("epsilon" in lab.facts(found)) == (regime == "dp_pgd")
    assert all(0 <= p.validation_robust <= p.validation_accuracy <= 1 for p in found.histories[0])
    assert found.logits(lab.data.test).isfinite().all()
    other = lab.classifiers(regime, eps=0.1)
    assert any(not torch.equal(a, b) for a, b in zip(found.states[0].values(), other.states[0].values(), strict=True))


def test_defences_trained_at_once_are_what_each_is_alone(tmp_path):
    p = small(defences=["fgsm", "ibp", "pgd"], robust_eps=[0.1, 0.2], fgsm_eps=0.3)
    lab = Lab(p, Store(tmp_path / "together"))
    kinds = lab.defences
    assert kinds == [("fgsm", 0.3), ("ibp", 0.1), ("ibp", 0.2), ("pgd", 0.1), ("pgd", 0.2)]
    found = lab.at_once(*(partial(lab.classifiers, *kind) for kind in kinds))
    lab = Lab(p, Store(tmp_path / "alone"))
    for kind, ensemble in zip(kinds, found, strict=True):
        alone = lab.classifiers(*kind)
        assert all(torch.equal(part, alone.states[0][name]) for name, part in ensemble.states[0].items())
    assert Lab(small(defences=[]), Store(tmp_path)).defences == []


def test_without_validation_the_last_state_is_kept(tmp_path):
    lab = Lab(small(validation_share=0), Store(tmp_path))
    found = lab.classifiers("pgd", eps=0.1)
    assert found.members.all()
    assert found.recipe.keep == "last"
    assert found.histories[0][-1].validation_robust is None


def test_a_small_share_holds_out_an_image_at_least(tmp_path):
    lab = Lab(small(validation_share=0.001), Store(tmp_path))
    assert lab.validation.sum() == 1
    assert len(lab.classifiers("pgd", eps=0.1).states) == 1


@pytest.mark.slow
def test_fgsm_training_overfits_catastrophically(tmp_path):
    """Its own attack is withstood, more steps of the same are not: the masking that this regime is kept to show."""
    try:
        lab = Lab(Params(dataset="fashion_mnist", test_size=500, robust_epochs=10), Store(tmp_path))
    except DataError as error:
        pytest.skip(str(error))
    found = lab.classifiers("fgsm", eps=0.3)
    images, labels = lab.data.test.batch(torch.arange(500))
    once = correct(found.model(0), fgsm(found.model(0), images, labels, 0.3), labels)
    several = withstand(found.model(0), images, labels, 0.3, steps=20)
    assert once.double().mean() > 0.5
    assert several.double().mean() < once.double().mean() / 2
