"""Bounds that hold: never below what sampling or an attack finds, exact where that can be known, true in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labkit.attacks import correct, withstand
from labkit.bounds import FLOAT32, _through, certified, passed, worst_logits
from labkit.data import Dataset, Split
from labkit.networks import build
from labkit.training import Interval, Recipe
from labkit.training.loop import fit
from labkit.training.watch import restored
from labkit.workers import Crew


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, 5, 3, stride=2, padding=(1, 0), bias=False),
        nn.Tanh(),
        nn.Conv2d(5, 4, 2),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.Linear(4 * 3 * 1, 6), nn.LeakyReLU(0.1), nn.Linear(6, 4)),
    ).double()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 0.5))
def test_no_sampled_point_leaves_the_bounds(seed, eps):
    model, n = network(seed), 3
    x, y = torch.rand(n, 1, 14, 12, generator=gen(seed)).double(), torch.randint(0, 4, (n,), generator=gen(seed))
    worst = worst_logits(passed(model), x, eps, y)
    for draw in range(40):
        away = 2 * torch.rand(x.shape, generator=gen(draw)).double() - 1
        points = (x + eps * (away if draw % 2 else away.sign())).clamp(0, 1)
        logits = model(points)
        apart = logits - logits.gather(1, y[:, None])
        assert (apart <= worst + 1e-12).all()
    assert (worst.gather(1, y[:, None]) == 0).all()
    if eps == 0:
        torch.testing.assert_close(worst, apart)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 1))
def test_bounds_of_a_linear_model_are_reached(seed, eps):
    torch.manual_seed(seed)
    linear = nn.Linear(9, 4).double()
    model, x = nn.Sequential(nn.Flatten(), linear), torch.rand(5, 1, 3, 3, generator=gen(seed)).double()
    y = torch.randint(0, 4, (5,), generator=gen(seed))
    worst = worst_logits(passed(model), x, eps, y)
    for image, label, bounds in zip(x, y, worst, strict=True):
        for other in range(4):
            corner = (image + eps * (linear.weight[other] - linear.weight[label]).sign().view(1, 3, 3)).clamp(0, 1)
            logits = model(corner[None])[0]
            torch.testing.assert_close(bounds[other], logits[other] - logits[label])


def stripes(n, noise, seed):
    """Ten kinds of images, each with a bright stripe of its own; noise in [0, 1] blurs them."""
    labels, x = torch.arange(n) % 10, torch.zeros(n, 1, 28, 28)
    for image, label in zip(x, labels, strict=True):
        image[:, 2 * label + 4 : 2 * label + 6] = 1
    x = (1 - noise) * x + noise * torch.rand(x.shape, generator=gen(seed))
    return x, labels


@pytest.fixture(scope="module")
def provable():
    """A network whose bounds were trained to be tight."""
    x, y = stripes(300, 0.3, 0)
    split = Split((x * 255).byte(), y)
    data = Dataset("stripes", "stripes", split, split, tuple("0123456789"), "stripes")
    recipe = Recipe("ibp", Interval(0.1, 0.5, (0.3, 0.8)), 15, 32, 3e-3, "adamw")
    with Crew(2) as crew:
        everyone = torch.ones(1, 300, dtype=torch.bool)
        return restored(build, fit(build, recipe, data, everyone, [0], torch.device("cpu"), crew=crew).states[0])


def test_certified_points_never_fall(provable):
    x, y = stripes(300, 0.6, 1)
    y[::10] = (y[::10] + 1) % 10  # wrong from the start
    before = [p.clone() for p in provable.parameters()]
    stand = {eps: certified(provable, x, y, eps) for eps in (0.0, 0.02, 0.05, 0.1, 1.0)}
    for eps, proved in stand.items():
        assert (proved <= correct(provable, x, y)).all()
        assert (proved <= withstand(provable, x, y, eps, steps=10, restarts=2)).all()
    counts = [int(proved.sum()) for proved in stand.values()]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == correct(provable, x, y).sum()  # nothing worth speaking of is lost to rounding
    assert counts[0] > counts[2] > 30
    assert counts[-1] == 0
    after = list(provable.parameters())
    assert all(p.dtype == torch.float32 and torch.equal(p, b) for p, b in zip(after, before, strict=True))
    assert len(certified(provable, x[:0], y[:0], 0.1)) == 0


def test_what_float32_rounds_away_is_not_certified():
    # On paper 2^26 + 1 - 2^26 = 1 > 0.5; in float32 the one is lost, and the other class wins.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
        model[1].bias.zero_()
        model[3].weight.copy_(torch.tensor([[2.0**26, 1.0, -(2.0**26)], [0.0, 0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([0.0, 0.5]))
    x, y = torch.ones(1, 1, 1, 3), torch.tensor([0])
    assert worst_logits(passed(model.double()), x.double(), 0.0, y)[0, 1] == -0.5
    assert not certified(model.float(), x, y, 0.0)


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.MaxPool2d(2), nn.GELU(), nn.BatchNorm2d(1), nn.LeakyReLU(-0.1), Doubled(nn.Identity())),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_layers_without_known_bounds_are_refused(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(10))
    x = torch.rand(2, 1, 28, 28)
    model(x)
    with pytest.raises(TypeError, match="no known bounds"):
        certified(model, x, torch.zeros(2, dtype=torch.long), 0.1)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Conv2d(1, 10, 28)])
def test_the_last_layer_must_be_linear(last):
    with pytest.raises(TypeError, match=r"must be nn\.Linear"):
        certified(nn.Sequential(last), torch.rand(2, 1, 28, 28), torch.zeros(2, dtype=torch.long), 0.1)


def test_a_leaky_slope_s_rounding_is_covered():
    layer, x = nn.LeakyReLU(0.1), torch.tensor([[-1.5, 2.0]], dtype=torch.float64)
    _, exact = _through(layer, x, torch.zeros_like(x), 0.0)
    _, widened = _through(layer, x, torch.zeros_like(x), FLOAT32)
    assert (exact == 0).all()
    assert torch.equal(widened, FLOAT32 * layer(x).abs())


def test_classes_that_do_not_fit_are_refused():
    x = torch.rand(2, 1, 2, 2, generator=gen())
    for classes, problem in ((3, "a label is 7, but the model has 3 classes"), (1, "the model has 1 class")):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
        with pytest.raises(ValueError, match=problem):
            certified(model, x, torch.tensor([0, 7 if classes > 1 else 0]), 0.1)
        assert len(certified(model, x[:0], torch.tensor([], dtype=torch.long), 0.1)) == 0


def test_a_radius_in_grey_levels_is_refused():
    with pytest.raises(ValueError, match="divide by 255"):
        certified(build(0), torch.rand(1, 1, 28, 28), torch.tensor([0]), 8)


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [(255.0, [0], "within"), (-0.1, [0], "within"), (float("nan"), [0], "within"), (0.5, [0, 1], "one label an image")],
)
def test_nothing_is_certified_of_what_is_no_image(images, labels, problem):
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with pytest.raises(ValueError, match=problem):
        certified(model, torch.full((1, 1, 3, 3), images), torch.tensor(labels), 0.1)


class Turned(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_that_computes_something_else_is_refused(place):
    layers = [nn.Linear(9, 9), nn.Linear(9, 4)]
    layers[place] = Turned(9, (9, 4)[place])
    x, y = torch.rand(3, 1, 3, 3, generator=gen()), torch.zeros(3, dtype=torch.long)
    with pytest.raises(TypeError, match="Turned"):
        certified(nn.Sequential(nn.Flatten(), *layers), x, y, 0.1)
    hooked = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Linear(9, 4))
    hooked[1 + place].register_forward_hook(lambda layer, given, out: -out)
    with pytest.raises(TypeError, match="hooks"):
        certified(hooked, x, y, 0.1)


def test_layers_that_are_no_method_are_no_list_of_what_images_pass():
    model = nn.Module()
    model.layers = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with pytest.raises(TypeError, match="give the model a method layers"):
        certified(model, torch.rand(1, 1, 3, 3), torch.zeros(1, dtype=torch.long), 0.1)


@pytest.mark.parametrize("scale", [1e25, 1e-44])
def test_what_float32_does_not_hold_is_not_certified(scale):
    """Sums that overflow, products that vanish: the network on paper is right, the one that runs is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Linear(9, 4))
    x = torch.rand(50, 1, 3, 3, generator=gen())
    y = model(x).argmax(1)
    with torch.no_grad():
        for layer in (model[1], model[2]):
            layer.weight *= scale
            layer.bias *= scale
    assert not (certified(model, x, y, 0.0) & ~correct(model, x, y)).any()
