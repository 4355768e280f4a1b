"""The signs of a broken evaluation: red on models that mask their gradients, green on those that do not."""

from functools import partial

import pytest
import torch
from attacked import Linear, images
from torch import nn

from labkit.attacks import STANDARD, evaluate, pgd, square
from labkit.attacks.doubts import black_box, probabilities, rise, signs, silent, unforeseen, unsteadiness


class Trained(nn.Module):
    """A small network that has learned to tell which of four patches of the image is the brightest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        for step in range(150):
            x = images(128, (1, 8, 8), seed=100 + step)
            loss = nn.functional.cross_entropy(self(x), brightest(x))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def forward(self, x):
        return self.body(x)


def brightest(x):
    return nn.functional.avg_pool2d(x, 4).flatten(1).argmax(1)


class Through(nn.Module):
    """A model with something before it and something behind it."""

    def __init__(self, model, before=lambda x: x, behind=lambda z: z):
        super().__init__()
        self.model, self.before, self.behind = model, before, behind

    def forward(self, x):
        return self.behind(self.model(self.before(x)))


@pytest.fixture(scope="module")
def honest():
    return Trained().eval()


@pytest.fixture(scope="module")
def points(honest):
    x = images(150, (1, 8, 8), seed=1)
    return x, honest(x).argmax(1)


def red(checks):
    return {check.name for check in checks if not check.passed}


def all_signs(model, x, y, eps, attacks):
    fell = evaluate(model, x, y, attacks, eps).fell["square"]
    return [*signs(model, x, y, eps), black_box({eps: fell.double().mean().item()}, len(x))]


THOROUGH = STANDARD | {"square": partial(square, queries=1000)}
QUICK = {"pgd": partial(pgd, steps=20), "square": partial(square, queries=1000)}


def test_a_trained_and_a_linear_model_raise_no_doubt(honest, points):
    x, y = points
    assert red(all_signs(honest, x, y, 0.05, THOROUGH)) == set()
    linear = Linear(4, 64)
    y = linear(x).argmax(1)
    assert red(all_signs(linear, x, y, 0.05, THOROUGH)) == set()


def test_a_saturated_model_is_found_out(honest, points):
    x, y = points
    masked = Through(honest, behind=lambda z: 1e4 * z)
    found = evaluate(masked, x, y, QUICK, 0.05)
    doubts = red(all_signs(masked, x, y, 0.05, QUICK))
    assert {"the loss has gradients", "Square adds nothing to the gradient attacks"} <= doubts
    assert found.stands.sum() < found.after["pgd"].sum()  # and rightly so: less stands than PGD says


def test_a_loss_that_is_flat_at_the_image_only_does_not_hide_it_from_pgd():
    class Plateau(nn.Module):
        def forward(self, x):
            score = 0.02 - ((x[:, 0] - 0.5).abs() - 1e-4).clamp(min=0)
            return torch.stack([score, 0 * score], 1)

    x, y = torch.full((50, 1), 0.5), torch.zeros(50, dtype=torch.long)
    for eps, standing in ((0.1, "0.0 %"), (0.01, "100.0 %")):
        found = {check.name: check for check in signs(Plateau(), x, y, eps)}["the loss has gradients"]
        assert not found.passed
        assert found.detail == f"none on 100.0 % of the images (limit 1 %); {standing} have none and stand under PGD"


def test_a_quantised_model_is_found_out(honest, points):
    x, y = points
    masked = Through(honest, before=lambda x: (8 * x).round() / 8)
    y = masked(x).argmax(1)
    doubts = red(all_signs(masked, x, y, 0.1, QUICK))
    assert {
        "the loss has gradients",
        "gradients foretell the loss",
        "Square adds nothing to the gradient attacks",
    } <= doubts
    assert "at eps 0.5 hardly anything stands" in doubts


def test_gradients_that_point_elsewhere_are_found_out(honest, points):
    x, y = points
    masked = Through(honest, before=lambda x: x + 0.02 * torch.sin(600 * x))  # slopes of 12 that lead nowhere
    assert "gradients foretell the loss" in red(signs(masked, x, y, 0.05))


def test_a_stochastic_model_is_found_out(honest, points):
    x, y = points
    noisy = Through(honest, before=lambda x: x + 0.05 * torch.randn(x.shape, generator=draw))
    draw = torch.Generator().manual_seed(0)
    assert "the model answers twice the same" in red(signs(noisy, x, y, 0.05))
    assert unsteadiness(honest, x) == 0


def test_a_softmaxed_model_is_found_out(honest, points):
    x, y = points
    soft = Through(honest, behind=lambda z: z.softmax(1))
    assert "the outputs are not probabilities" in red(signs(soft, x, y, 0.05))
    assert not probabilities(honest, x)
    assert not probabilities(Through(honest, behind=lambda z: z.log_softmax(1)), x)


def test_facts_count_what_they_say():
    # Two points of three have a slope; on one of these, it is that of the loss.
    class Half(nn.Module):
        def forward(self, x):
            first = x[:, 0]
            score = torch.where(first < 0.3, 0 * first, torch.where(first < 0.6, first, (10 * first).round() + first))
            return torch.stack([score, 0 * score], 1)

    x, y = torch.tensor([[0.1], [0.5], [0.848]]), torch.tensor([0, 0, 0])
    assert silent(Half(), x, y).tolist() == [True, False, False]
    assert unforeseen(Half(), x, y) == pytest.approx(1 / 3)
    x = torch.tensor([[0.1], [0.5], [0.855]])  # the sign step down crosses the edge of a stair
    assert unforeseen(Half(), x, y) == pytest.approx(2 / 3)


def test_rise_is_the_highest_above_an_earlier_one():
    assert rise([0.9, 0.5, 0.6, 0.55, 0.7]) == pytest.approx(0.2)
    assert rise([0.9, 0.5]) == 0
    assert rise([]) == 0


@pytest.mark.parametrize(
    ("most", "points", "limit", "passed"), [(0.02, 100, 2, True), (0.03, 100, 2, False), (0.006, 1000, 0.5, False)]
)
def test_square_may_break_two_images_alone_or_half_a_percent(most, points, limit, passed):
    found = black_box({0.1: 0.0, 0.3: most}, points)
    assert found.passed == passed
    assert found.detail.endswith(f"at eps 0.3 (limit {limit} %)")
    assert black_box({0.1: 0.0}, points).detail == f"0.0 % fell to Square alone (limit {limit} %)"


def test_signs_need_images_and_a_radius(honest, points):
    x, y = points
    with pytest.raises(ValueError, match="an image and a radius above 0"):
        signs(honest, x, y, 0.0)
    with pytest.raises(ValueError, match="an image and a radius above 0"):
        signs(honest, x[:0], y[:0], 0.1)
