"""APGD, FAB-T, Square and their ensemble: against exact worst cases, naive references, and their promises."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from attacked import ATTACKS, Linear, images, network, walked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labkit import measure
from labkit.attacks import (
    STANDARD,
    apgd,
    apgd_targeted,
    autoattack,
    boundary_distance,
    correct,
    evaluate,
    fab_targeted,
    fgsm,
    pgd,
    square,
    standard,
)
from labkit.attacks.autopgd import checkpoints
from labkit.attacks.hyperplane import onto_hyperplane
from labkit.attacks.losses import dlr, margin, targeted_dlr
from labkit.attacks.random_search import share, sides
from labkit.device import generator

EXACT = ("apgd-t", "fab-t", "autoattack")  # with many classes, these find a linear model's worst case
GREEDY = sorted(set(ATTACKS) - set(EXACT))  # what climbs one loss may go for the wrong class


@pytest.mark.parametrize("eps", [0.02, 0.06])
@pytest.mark.parametrize("name", EXACT)
def test_a_linear_model_survives_exactly_where_its_worst_case_does(name, eps):
    model, x = Linear(), images(80)
    y = model(x).argmax(1)
    worst = model.worst_margin(x, y, eps)
    clear = worst.abs() > 0.01  # logits differ by 1 or so
    stands = correct(model, ATTACKS[name](model, x, y, eps), y)
    assert torch.equal(stands[clear], worst[clear] > 0)
    assert 10 < stands.sum() < 70
    assert clear.sum() > 70


@pytest.mark.parametrize("name", GREEDY)
def test_attacks_on_one_loss_come_close_to_a_linear_models_worst_case_and_never_below(name):
    model, x, eps = Linear(), images(80), 0.04
    y = model(x).argmax(1)
    worst = model.worst_margin(x, y, eps)
    stands = correct(model, ATTACKS[name](model, x, y, eps), y)
    assert stands[worst > 1e-5].all()
    assert (~stands).sum() >= 0.75 * (worst < 0).sum()
    assert stands.any()


@pytest.mark.parametrize("name", [name for name in ATTACKS if "dlr" not in name])
def test_with_two_classes_every_gradient_attack_is_exact(name):
    model, x, eps = Linear(2), images(80), 0.04
    y = model(x).argmax(1)
    worst = model.worst_margin(x, y, eps)
    stands = correct(model, ATTACKS[name](model, x, y, eps), y)
    clear = worst.abs() > (0.15 if name == "square" else 0.005)
    assert torch.equal(stands[clear], worst[clear] > 0)
    assert 10 < stands.sum() < 70


def test_distances_to_a_linear_models_boundary_are_the_closed_form():
    model, x = Linear(), images(40)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 5  # misclassified as it is
    exact = model.distance(x, y).float()
    exact[0] = 0
    found = boundary_distance(model, x, y)
    torch.testing.assert_close(found, exact, rtol=3e-3, atol=1e-6)
    assert (found[1:] >= exact[1:] - 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 30), st.floats(-3, 3))
def test_the_projection_on_a_hyperplane_is_that_of_sorted_corners(seed, pixels, value):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(4, pixels, generator=g, dtype=torch.double)
    x[0] = x[0].round()  # at the box
    normal = torch.randn(4, pixels, generator=g, dtype=torch.double)
    normal[1, ::2] = 0
    values = torch.full((4,), value, dtype=torch.double)
    change = onto_hyperplane(x, normal, values)
    assert (x + change).min() >= 0
    assert (x + change).max() <= 1
    for point, w, d in zip(x, normal, change, strict=True):
        way = -w * (1 if value > 0 else -1)
        rooms = [(1 - p if v > 0 else p) if v else 0.0 for p, v in zip(point.tolist(), way.tolist(), strict=True)]
        expected = walked(rooms, w.abs().tolist(), abs(value))
        if expected < float("inf"):
            assert d.abs().max().item() == pytest.approx(expected, abs=1e-9)
            assert value + (w @ d).item() == pytest.approx(0, abs=1e-9)
        else:  # not within the box: as far as it goes
            assert (w @ d).abs().item() == pytest.approx(
                sum(r * abs(v) for r, v in zip(rooms, w.tolist(), strict=True))
            )


def reference_apgd(model, x, y, eps, steps, start, loss, project, direction):
    """Algorithm 1 of Croce and Hein (2020) for one point, as it is printed; ends when the point is broken."""

    def f(z):
        z = z.clone().requires_grad_()
        logits = model(z[None])
        value = loss(logits, y[None])[0]
        return value.item(), torch.autograd.grad(value, z)[0], logits.argmax(1).item() != y.item()

    share, gaps = [0, 22], 22
    while share[-1] < 100:
        gaps = max(share[-1] - share[-2] - 3, 6)
        share.append(share[-1] + gaps)
    w = [-(-p * steps // 100) for p in share]
    xs = [start]
    value, _, broken = f(start)
    if broken:
        return start, True
    values = [value]
    best, f_max, f_max_at = start, value, {0: value}
    eta_at = {0: 2 * eps}
    now, rises = 2 * eps, []
    for k in range(steps):
        z = project(xs[k] + now * direction(f(xs[k])[1]))
        momentum = xs[k] - xs[k - 1] if k > 0 else 0
        alpha = 0.75 if k > 0 else 1.0
        new = project(xs[k] + alpha * (z - xs[k]) + (1 - alpha) * momentum)
        value, _, broken = f(new)
        if broken:
            return new, True
        rises.append(value > values[k])
        xs.append(new)
        values.append(value)
        if value > f_max:
            best, f_max = new, value
        if k + 1 in w[1:]:
            j = w.index(k + 1)
            length = w[j] - w[j - 1]
            first = sum(rises[w[j - 1] : w[j]]) < 0.75 * length
            eta_at[w[j]] = now
            f_max_at[w[j]] = f_max
            kept = j == 1 or eta_at[w[j - 1]] == eta_at[w[j]]
            # "The step size was not reduced at the last checkpoint, and the best value is the same".
            second = kept and f_max_at[w[j - 1]] == f_max
            if first or second:
                now /= 2
                xs[-1], values[-1] = best, f_max
    return best, False


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_apgd_is_the_printed_algorithm(loss, norm):
    model, x = network().double(), images(40).double()
    y = model(x).argmax(1)
    eps, steps = (0.05, 50) if norm == "linf" else (0.25, 50)
    found = apgd(model, x, y, eps, steps=steps, loss=loss, norm=norm, seed=3)
    draw = torch.Generator().manual_seed(3)
    if norm == "linf":
        starts = (x + eps * (2 * torch.rand(x.shape, generator=draw, dtype=x.dtype) - 1)).clamp(0, 1)
    else:
        noise = torch.randn(x.shape, generator=draw, dtype=x.dtype)
        radius = eps * torch.rand(40, generator=draw, dtype=x.dtype) ** (1 / 36)
        starts = (x + radius.view(-1, 1, 1, 1) * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    losses = {"ce": partial(F.cross_entropy, reduction="none"), "margin": margin, "dlr": dlr}
    fallen = 0
    for i in range(40):

        def project(z, i=i):
            if norm == "linf":
                return torch.min(torch.max(z, x[i] - eps), x[i] + eps).clamp(0, 1)
            change = z - x[i]
            return (x[i] + change * min(1.0, eps / change.norm().item())).clamp(0, 1)

        direction = torch.sign if norm == "linf" else lambda g: g / g.norm()
        expected, broken = reference_apgd(model, x[i], y[i], eps, steps, starts[i], losses[loss], project, direction)
        fallen += broken
        torch.testing.assert_close(found[i], expected, rtol=1e-7, atol=1e-9)
    assert 5 < fallen < 35  # both ends are met


def test_checkpoints_are_the_published_ones():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10, 10]


def test_squares_follow_the_published_schedule():
    shares = [share(q, 10_000, 0.8) for q in (0, 10, 11, 50, 51, 200, 201, 500, 1001, 4000, 4001, 9999)]
    assert [0.8 / s for s in shares] == [1, 1, 2, 2, 4, 4, 8, 8, 32, 64, 128, 512]
    assert share(25, 5000, 0.8) == share(50, 10_000, 0.8)  # stretched
    assert sides(0.8, 28, 28) == (25, 25)
    assert sides(0.0001, 28, 28) == (1, 1)
    assert sides(0.5, 1, 100) == (1, 50)  # flat input: a stretch of it
    assert sides(0.8, 4, 20) == (4, 16)


def test_more_queries_of_square_only_make_it_stronger():
    model, x = network(), images(60)
    y = model(x).argmax(1)
    losses = [margin(model(square(model, x, y, 0.05, queries=q, p_init=0.3)), y) for q in (1, 20)]
    assert losses[1].mean() > losses[0].mean()
    assert correct(model, square(model, x, y, 0.05, queries=300), y).sum() < correct(model, x, y).sum()


def reference_square(model, x, y, eps, queries, p_init, draw):
    """Algorithms 1 and 2 of Andriushchenko et al. (2020) for one point [c, h, w], query by query; ends when broken."""
    channels, high, wide = x.shape
    low, top = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    best = torch.where(torch.rand(channels, 1, wide, generator=draw) < 0.5, top, low)
    loss, luck = margin(model(best[None]), y[None]), torch.rand(queries, 2 + channels, generator=draw)
    for query in range(queries):
        if loss > 0:
            break
        tall, broad = sides(share(query, queries, p_init), high, wide)
        r, s = int(luck[query, 0] * (high - tall + 1)), int(luck[query, 1] * (wide - broad + 1))
        new = best.clone()
        for c in range(channels):
            window = c, slice(r, r + tall), slice(s, s + broad)
            new[window] = (top if luck[query, 2 + c] < 0.5 else low)[window]
        if (value := margin(model(new[None]), y[None])) > loss:
            best, loss = new, value
    return best


@pytest.mark.parametrize(
    ("count", "ahead", "shape"), [(3, 16, (1, 6, 6)), (30, 16, (3, 4, 9)), (30, 3, (1, 6, 6)), (30, 1, (1, 6, 6))]
)
def test_square_is_the_printed_algorithm(count, ahead, shape, monkeypatch):
    monkeypatch.setattr("labkit.attacks.random_search.AHEAD", ahead)
    monkeypatch.setattr("labkit.workers.PIECE", 64 if ahead < 16 else 200)  # 200: as many ahead as may be
    model, x = network(shape).double(), images(count, shape).double()
    y = model(x).argmax(1)
    found = square(model, x, y, 0.05, queries=70, p_init=0.4, seed=2)
    for i in range(count):
        expected = reference_square(model, x[i], y[i], 0.05, 70, 0.4, generator(2, "square", i))
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)
    assert 0 < correct(model, found, y).sum() < count  # both ends are met


def test_square_asks_less_at_once_where_memory_runs_out():
    small, y = network().double(), network().double()(images(5).double()).argmax(1)

    class Narrow(nn.Module):
        most = 10**6

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError
            return small(x)

    wide, narrow = Narrow(), Narrow()
    narrow.most = 12
    expected, found = (square(model, images(5).double(), y, 0.05, queries=70, seed=2) for model in (wide, narrow))
    torch.testing.assert_close(found, expected)
    narrow.most = 4
    with pytest.raises(torch.OutOfMemoryError):
        square(narrow, images(5).double(), y, 0.05, queries=70)


def test_square_asks_for_no_gradient():
    class Deaf(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return network()(x)

    y = network()(images(9)).argmax(1)
    assert square(Deaf(), images(9), y, 0.1, queries=5).shape == (9, 1, 6, 6)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("fgsm", "pgd ce", "autoattack")])
@settings(max_examples=8, deadline=None)
@given(eps=st.floats(0, 1), seed=st.integers(0, 1000))
def test_ball_and_box_are_respected(name, eps, seed):
    quick = {"square": {"queries": 30}}.get(name, {"steps": 6})
    x = images(5, seed=seed)
    found = ATTACKS[name](network(seed=seed % 7), x, torch.arange(5), eps, **quick)
    assert (found - x).abs().max() <= eps + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("attack", [partial(pgd, steps=5), partial(apgd, steps=20)])
@settings(max_examples=10, deadline=None)
@given(eps=st.floats(0, 4), seed=st.integers(0, 1000))
def test_the_euclidean_ball_is_respected(attack, eps, seed):
    x = images(5, seed=seed)
    found = attack(network(), x, torch.arange(5), eps, norm="l2", seed=seed)
    assert (found - x).flatten(1).norm(dim=1).max() <= eps + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("attack", [partial(pgd, steps=2), partial(apgd, steps=2), partial(apgd_targeted, steps=9)])
def test_in_half_precision_a_model_without_slopes_makes_no_image_a_number(attack):
    class Flat(nn.Module):
        def forward(self, x):
            return 0 * x.flatten(1)[:, :4]

    x, y = images(3).half(), torch.zeros(3, dtype=torch.long)
    assert attack(Flat(), x, y, 0.1, norm="l2").isfinite().all()


def test_pgd_in_the_euclidean_norm_finds_a_linear_models_worst_case():
    model = Linear(2)
    x = 0.5 + 0.2 * (images(50) - 0.5)  # the box is out of reach
    y = model(x).argmax(1)
    exact = margin(model(x), y).neg() / (model.w[0] - model.w[1]).norm()  # distance to the boundary
    eps = exact.median().item()
    for attack in (partial(pgd, steps=30), partial(apgd, steps=30)):
        stands = correct(model, attack(model, x, y, eps, norm="l2"), y)
        clear = (exact - eps).abs() > 1e-3 * eps
        assert torch.equal(stands[clear], (exact > eps)[clear])


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("fgsm", "autoattack")])  # that is the others
def test_results_do_not_depend_on_chunking(name, monkeypatch):
    model, x = network().double(), images(30).double()
    y = model(x).argmax(1)
    whole = ATTACKS[name](model, x, y, 0.05)
    monkeypatch.setattr("labkit.workers.PIECE", 7)
    torch.testing.assert_close(ATTACKS[name](model, x, y, 0.05), whole)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "autoattack"])
def test_the_model_is_left_as_it_was_and_attacked_in_eval_mode(name):
    model, x = Linear(dropout=0.5), images(20)
    y = model.eval()(x).argmax(1)
    model.train()
    model.b.requires_grad_(False)
    model.w.grad = torch.ones_like(model.w)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = ATTACKS[name](model, x, y, 0.03)
    assert torch.equal(torch.random.get_rng_state(), state)  # neither dropout nor the attack drew
    assert model.training
    assert model.dropout.training
    assert model.w.requires_grad
    assert not model.b.requires_grad
    assert torch.equal(model.w.grad, torch.ones_like(model.w))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not found.requires_grad
    with torch.no_grad():
        assert torch.equal(ATTACKS[name](model, x, y, 0.03), found)


@pytest.mark.parametrize("name", ATTACKS)
def test_empty_batches_and_points_that_are_wrong_already(name):
    model = Linear()
    empty, none = torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.long)
    assert ATTACKS[name](model, empty, none, 0.1).shape == empty.shape
    x = images(6)
    y = (model(x).argmax(1) + 1) % 5
    found = ATTACKS[name](model, x, y, 0.01)
    if name != "fgsm" and not name.startswith("pgd"):
        assert torch.equal(found, x)


@pytest.mark.parametrize("shape", [(36,), (3, 4, 9), (5, 7)])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_any_shape_and_few_classes(shape, classes):
    x = images(30, shape)
    model = Linear(classes, x[0].numel())
    y = model(x).argmax(1)
    quick = {
        name: partial(a, **({"queries": 200} if name == "square" else {"steps": 20})) for name, a in STANDARD.items()
    }
    result = evaluate(model, x, y, quick, 0.1)
    assert result.images.shape == x.shape
    assert torch.equal(correct(model, result.images, y), result.stands)
    assert result.stands.sum() < 30


def test_dlr_says_what_it_needs():
    two, three = torch.zeros(1, 2), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="needs 3 classes, the model has 2"):
        dlr(two, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="needs 4 classes, the model has 3"):
        targeted_dlr(three, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long))
    with pytest.raises(ValueError, match='loss="margin"'):
        pgd(Linear(2), images(3), torch.tensor([0, 1, 0]), 0.1, steps=1, loss="dlr")
    with pytest.raises(ValueError, match="nothing to be mistaken for"):
        autoattack(Linear(1), images(3), torch.zeros(3, dtype=torch.long), 0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 100), st.floats(-5, 5))
def test_dlr_knows_neither_scale_nor_offset_and_its_sign_is_the_answers(seed, scale, offset):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=g, dtype=torch.double)
    y, t = torch.randint(5, (6,), generator=g), torch.randint(5, (6,), generator=g)
    for loss in (partial(dlr, labels=y), partial(targeted_dlr, labels=y, targets=t)):
        torch.testing.assert_close(loss(scale * logits + offset), loss(logits), rtol=1e-6, atol=1e-6)
    assert torch.equal(dlr(logits, y) > 0, logits.argmax(1) != y)
    first, second, third, _fourth, _ = logits.sort(1, descending=True).values.unbind(1)
    right = logits.argmax(1) == y
    torch.testing.assert_close(dlr(logits, y)[right], (-(first - second) / (first - third))[right])


def test_an_evaluation_attacks_only_what_stands_and_says_what_fell_to_what():
    model, x = network(), images(60)
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % 5
    seen = []

    def noted(model, images, labels, eps):
        seen.append(len(images))
        return fgsm(model, images, labels, eps)

    result = evaluate(model, x, y, {"weak": noted, "again": noted, "pgd": partial(pgd, steps=20)}, 0.04)
    weak = correct(model, fgsm(model, x, y, 0.04), y)
    assert seen == [55, int((weak & result.right).sum())]
    assert torch.equal(result.right, torch.arange(60) >= 5)
    assert torch.equal(result.after["weak"], weak & result.right)
    assert not result.fell["again"].any()
    assert torch.equal(result.after["pgd"], result.stands)
    row = measure.fraction("any", "robust_accuracy", result.after["pgd"][None], attack="pgd")
    assert (row.value, row.interval) == (result.stands.double().mean().item(), "wilson")
    assert torch.equal(result.stands, correct(model, result.images, y))
    assert list(result.after) == ["weak", "again", "pgd"]


def test_an_evaluation_keeps_the_strongest_image_of_what_stands():
    model, x = network(), images(40)
    y = model(x).argmax(1)
    attacks = {"strong": partial(pgd, steps=20, loss="margin"), "idle": lambda model, images, labels, eps: images}
    one, both = (evaluate(model, x, y, some, 0.01) for some in ({"strong": attacks["strong"]}, attacks))
    assert torch.equal(one.images, both.images)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda model, x, y, eps: x + 2 * eps, "cheat went .* beyond the ball"),
        (lambda model, x, y, eps: x - 0.99 * eps, "beyond the ball of radius 0.1 or the box"),
        (lambda model, x, y, eps: x * float("nan"), "beyond the ball"),
        (lambda model, x, y, eps: x[:1], "need the same shape"),
    ],
)
def test_an_evaluation_believes_no_attack(attack, message):
    model, x = network(), images(20)
    x[0, 0, 0, 0] = 0
    y = model(x).argmax(1)
    with pytest.raises(ValueError, match=message):
        evaluate(model, x, y, {"cheat": attack}, 0.1)
    # It says that it has broken everything; the images are what counts.
    assert evaluate(model, x, y, {"boast": lambda model, x, y, eps: x}, 0.1).stands.all()


def test_the_ensemble_is_as_strong_as_each_of_its_parts_and_repeats():
    model, x = network(seed=2), images(40)
    y = model(x).argmax(1)
    found = autoattack(model, x, y, 0.04, seed=1)
    stands = correct(model, found, y)
    for attack in (*list(standard(1).values())[:3], partial(pgd, steps=40, restarts=3)):
        assert not (stands & ~correct(model, attack(model, x, y, 0.04), y)).any()
    assert stands.any()
    assert torch.equal(autoattack(model, x, y, 0.04, seed=1), found)
    assert not torch.equal(autoattack(model, x, y, 0.04, seed=2), found)
    assert list(STANDARD) == ["apgd_ce", "apgd_t", "fab_t", "square"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(apgd, steps=0), "steps = 0, restarts = 1: both must be at least 1"),
        (partial(apgd, loss="mse"), "loss = 'mse' is unknown; there are ce, margin, dlr"),
        (partial(apgd, norm="l1"), "norm = 'l1' is unknown; there are linf, l2"),
        (partial(pgd, steps=2, norm="l0"), "norm = 'l0' is unknown"),
        (partial(apgd_targeted, targets=0), "targets = 0: both must be"),
        (partial(fab_targeted, targets=0), "targets = 0: both must be"),
        (partial(square, queries=0), "queries = 0: each must be at least 1"),
        (partial(square, p_init=0), "p_init = 0 must lie in"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(Linear(), images(4), torch.arange(4), 0.1)


@pytest.mark.parametrize("attack", [apgd, apgd_targeted, fab_targeted, square, autoattack])
def test_bad_images_are_named(attack):
    with pytest.raises(ValueError, match="normalisation inside"):
        attack(Linear(), images(4) * 255, torch.arange(4), 0.1)
    with pytest.raises(ValueError, match="divide by 255"):
        attack(Linear(), images(4), torch.arange(4), 8)
