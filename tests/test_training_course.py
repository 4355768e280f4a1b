"""Training: what is watched, how it is shuffled and mirrored, the course of the rate, keys, recipes."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from labkit.attacks import withstand
from labkit.data import Dataset, Split
from labkit.networks import build
from labkit.params import Params
from labkit.store import Store
from labkit.training import DEFENCES, REGIMES, Adversarial, Mean, Recipe, at_epsilon, train
from labkit.training.dice import Dice
from labkit.training.linear import Head, train_heads
from labkit.training.loop import _batches, fit
from labkit.training.optimisers import flat_linear, warm_cosine
from labkit.training.stack import Stack
from labkit.training.watch import look
from labkit.workers import Crew

CPU = torch.device("cpu")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def split(n, seed):
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=gen(seed), dtype=torch.uint8)
    return Split(pixels, torch.arange(n) % 10)


def toy(n=60, seed=0):
    return Dataset("toy", "toy", split(n, seed), split(40, seed + 100), tuple("0123456789"), f"toy-{n}-{seed}")


def test_images_are_mirrored_left_to_right_half_of_the_time():
    seen = []

    class Spy(Mean):
        def add(self, stack, images, labels, dice):
            seen.append(images)
            return super().add(stack, images, labels, dice)

    data = toy(200)
    with Crew(1) as crew:
        fit(
            build,
            Recipe("standard", Spy(), 1, 200, 1e-3, mirror=True),
            data,
            torch.ones(1, 200).bool(),
            [0],
            CPU,
            crew=crew,
        )
    shown = {image.numpy().tobytes() for image in torch.cat(seen)}
    plain, mirrored = (
        sum(image.numpy().tobytes() in shown for image in part)
        for part in (data.train.images, data.train.mirrored().images)
    )
    assert plain + mirrored == 200
    assert 70 < mirrored < 130


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own():
    recipe = Recipe("standard", Mean(), 3, 16, 1e-3)
    mine = torch.arange(100, 196)
    epochs = torch.cat(list(_batches(recipe, mine, 18, gen()))).view(3, 96)
    for order in epochs:
        assert torch.equal(order.sort().values, mine)
        assert not torch.equal(order, mine)
    assert not torch.equal(epochs[0], epochs[1])


def test_courses_of_the_rate():
    steps = 50
    rising, falling = [warm_cosine(t, steps) for t in range(10)], [warm_cosine(t, steps) for t in range(10, 50)]
    assert rising == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert falling == pytest.approx([math.cos(math.pi * (t - 10) / 80) ** 2 for t in range(10, 50)])
    assert falling[-1] < 0.01
    assert [flat_linear(t, steps) for t in range(50)] == pytest.approx(
        [1.0] * 25 + [(50 - t) / 25 for t in range(25, 50)]
    )


def test_a_look_is_at_members_test_and_validation_images():
    data, model = toy(), build(3)
    mine, held_out = torch.arange(20, 60), torch.arange(0, 20)
    seen = look(build, model.state_dict(), data, mine, 7, validation=held_out, eps=0.02)

    def figures(images, labels):
        logits = model(images)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()

    with torch.no_grad():
        assert (seen.train_loss, seen.train_accuracy) == pytest.approx(figures(*data.train.batch(mine)), rel=1e-5)
        assert (seen.test_loss, seen.test_accuracy) == pytest.approx(
            figures(*data.test.batch(torch.arange(40))), rel=1e-5
        )
        x, y = data.train.batch(held_out)
        assert seen.validation_accuracy == pytest.approx(figures(x, y)[1])
    stand = withstand(model, x, y, 0.02, steps=10, seed=0).double().mean().item()
    assert seen.validation_robust == pytest.approx(stand)
    assert seen.epoch == 7


@pytest.mark.parametrize(("models", "spread"), [(1, 0.0), (2, 0.5)])
def test_adversarial_training_equals_the_naive_gradient(models, spread):
    networks = [build(m).double() for m in range(models)]
    x = torch.rand(models * 6, 1, 28, 28, generator=gen(1)).double()
    y = torch.randint(0, 10, (models * 6,), generator=gen(2))
    dice = partial(Dice, list(range(models)), "test")
    found = Adversarial(Mean(), 0.1, 3, spread).add(Stack(networks), x, y, dice())
    drawn = dice()
    radius = 0.1 * (1 + spread * (2 * drawn.uniform(len(x), 1, 1, 1).double() - 1))
    start = (x + radius * (2 * drawn.uniform(*x.shape) - 1)).clamp(0, 1)
    for m, network in enumerate(networks):
        part = slice(6 * m, 6 * m + 6)
        at, eps = start[part], radius[part]
        for _ in range(3):
            at.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(network(at), y[part]), at)
            at = at.detach() + 0.5 * eps * slope.sign()
            at = torch.max(torch.min(at, x[part] + eps), x[part] - eps).clamp(0, 1)
        loss = F.cross_entropy(network(at), y[part], reduction="sum")
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        torch.testing.assert_close(found[m], expected)


def wide(seed):
    return build(seed, hidden=64)


def test_a_model_is_found_again_under_all_that_determines_it(tmp_path, opened):
    made, bar = opened
    members = torch.ones(1, 60, dtype=torch.bool)
    members[:, :20] = False
    held_out = torch.arange(60) < 10
    recipe = Recipe("standard", Mean(), 1, 16, 1e-3, eps=0.1)
    given = {"recipe": recipe, "data": toy(), "members": members, "seed": 0, "network": build}
    given |= {"watch": True, "validation": held_out, "trace": ()}
    others = {"recipe": replace(recipe, epochs=2), "data": toy(60, 1), "members": members.roll(-5), "seed": 1}
    others |= {"network": wide, "watch": False, "validation": held_out.roll(5), "trace": (1,)}

    def run(**changed):
        call = given | changed
        train(
            call.pop("recipe"),
            call.pop("data"),
            call.pop("members"),
            store=Store(tmp_path),
            device=CPU,
            bar=bar,
            **call,
        )

    run()
    for count, (name, value) in enumerate(others.items(), start=2):
        run(**{name: value})
        assert len(made) == count, name
    run()
    assert len(made) == len(others) + 1


def test_another_epsilon_has_its_noise_and_moves_the_weights_as_far():
    recipe = REGIMES["dp"](Params(dp_epsilon=8), 6000, 5)
    for target in (1.0, 3.0):
        other = at_epsilon(recipe, target, 1e-5)
        assert target - 0.01 <= other.guarantee(1e-5) <= target
        noises = [r.rule.noise_multiplier * r.learning_rate for r in (recipe, other)]
        assert noises[0] == pytest.approx(noises[1])
        assert replace(other, rule=recipe.rule, learning_rate=recipe.learning_rate) == recipe


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_private_training_spends_what_it_may_and_no_more(target):
    recipe = REGIMES["dp"](Params(dp_epsilon=target), 6000, 5)
    assert target - 0.04 <= recipe.guarantee(Params().dp_delta) <= target
    assert recipe.rule.expected_batch == round(recipe.sample_rate * 6000)


def test_defences_are_made_as_the_parameters_say():
    p = Params(robust_average=0.9, trades_beta=3.0, mtl_share=0.2, ibp_kappa=0.25, train_steps=7)
    made = {name: recipe(p, 1000, 0.2) for name, recipe in DEFENCES.items()}
    assert {name for name, recipe in made.items() if recipe.average == 0.9} == {"pgd", "trades", "mtl_ibp"}
    assert {name for name, recipe in made.items() if recipe.keep == "best"} == {"pgd", "trades"}
    assert made["pgd"].rule == Adversarial(Mean(), 0.2, 7)
    assert (made["trades"].rule.beta, made["mtl_ibp"].rule.share, made["ibp"].rule.kappa) == (3.0, 0.2, 0.25)
    assert all(recipe.eps == 0.2 for recipe in made.values())


def test_heads_go_the_way_of_momentum_and_are_averaged_over_the_tail():
    """Without noise and clipping, and with everybody in every batch: gradient descent, by autograd."""
    g = gen()
    x, labels = torch.randn(60, 5, generator=g), torch.randint(0, 3, (60,), generator=g)
    found = train_heads(x, labels, [Head(1e-12, 1.0, 8, 0.2 * 1e3, 1e3, tail=0.25)], 0, classes=3)[0]
    theta, velocity, path = torch.zeros(3, 6, requires_grad=True), torch.zeros(3, 6), []
    for _ in range(8):
        loss = F.cross_entropy(x @ theta[:, :-1].T + theta[:, -1], labels)
        velocity = 0.9 * velocity + torch.autograd.grad(loss, theta)[0]
        theta = (theta.detach() - 0.2 * velocity).requires_grad_()
        path.append(theta.detach())
    torch.testing.assert_close(found, torch.stack(path[-2:]).mean(0), rtol=1e-4, atol=1e-5)


def test_heads_have_noise_of_their_own():
    x, labels = torch.zeros(50, 400), torch.zeros(50, dtype=torch.long)
    one, other = train_heads(x, labels, [Head(3.0, 1.0, 1, 2.0, 2.0)] * 2, 0)[:, :, :-1].flatten(1)
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 4 / len(one) ** 0.5
