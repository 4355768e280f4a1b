"""Rows from outcomes: values, and the interval that fits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from labkit import measure
from labkit.attacks import correct
from labkit.intervals import clopper_pearson, wilson
from labkit.membership import audit, halves
from labkit.results import Row


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_model_gets_wilson_over_examples():
    outcomes = torch.tensor([[True] * 30 + [False] * 10])
    row = measure.fraction("standard", "accuracy", outcomes, eps=0.1)
    assert (row.value, row.n, row.interval, row.extra["eps"]) == (0.75, 40, "wilson", 0.1)
    assert (row.low, row.high) == wilson(30, 40)


def test_several_models_get_student_t_over_models():
    outcomes = torch.rand(5, 200, generator=gen()) < 0.8
    row = measure.fraction("standard", "accuracy", outcomes)
    each = outcomes.double().mean(1).numpy()
    low, high = stats.t.interval(0.95, 4, each.mean(), stats.sem(each))
    assert (row.value, row.low, row.high) == pytest.approx((each.mean(), low, high))
    assert row.interval == "student-t"
    assert row.extra["models"] == 5


def test_a_difference_of_two_models_covers_the_truth():
    """95 % intervals over the images of two dependent outcomes, among them one that is nearly always right."""
    draw = gen(3)
    for p_a, p_b in ((0.7, 0.6), (0.97, 0.9)):
        covered = 0
        for _ in range(400):
            luck = torch.rand(3, 64, generator=draw)
            a, b = (torch.where(luck[2] < 0.5, luck[0], luck[index]) < p for index, p in ((0, p_a), (1, p_b)))
            found = measure.difference("pgd", "difference", a[None], b[None], eps=0.1)
            assert found.value == pytest.approx((a.double().mean() - b.double().mean()).item())
            covered += found.low <= p_a - p_b <= found.high
        assert covered / 400 > 0.93
    assert (found.n, found.interval, found.extra) == (64, "bonett-price", {"eps": 0.1, "models": 1})


def test_equal_outcomes_do_not_prove_equality():
    same = torch.ones(1, 16, dtype=torch.bool)
    found = measure.difference("pgd", "difference", same, same)
    assert found.low < -0.05 < found.value == 0 < 0.05 < found.high
    assert measure.difference("pgd", "difference", same, ~same).low < 0.95


def test_a_difference_of_several_models_is_over_models():
    a, b = (torch.rand(5, 200, generator=gen(seed)) < 0.5 for seed in (1, 2))
    x, y = a.double().mean(1), b.double().mean(1)
    apart = measure.difference("pgd", "difference", a, b)
    spread = x.var() / 5, y.var() / 5
    freedom = sum(spread) ** 2 / sum(s**2 / 4 for s in spread)
    half = stats.t.ppf(0.975, freedom) * sum(spread) ** 0.5
    middle = (x - y).mean().item()
    assert (apart.low, apart.high) == pytest.approx((middle - float(half), middle + float(half)))
    matched = measure.matched_difference("pgd", "difference", a, b)
    assert (matched.low, matched.high) == pytest.approx(tuple(stats.ttest_rel(x, y).confidence_interval(0.95)))
    assert matched.value == pytest.approx(apart.value)


def test_level_with_the_best_is_who_differs_on_few_images():
    """Two-sided sign tests in closed form: of 5 images on which two differ, all 5 one way has p = 1/16; of 8, 1/128."""
    best = torch.ones(1, 40, dtype=torch.bool)

    def worse_on(count):
        return torch.arange(40)[None] >= count

    assert measure.level_with(best, {"same": best, "five": worse_on(5)}) == ["same", "five"]
    assert measure.level_with(best, {"six": worse_on(6)}) == []  # p = 1/32
    assert measure.level_with(best, {"six": worse_on(6), "same": best}) == ["six", "same"]  # 3/32: three pairs
    assert measure.level_with(best, {"eight": worse_on(8), "five": worse_on(5)}) == ["five"]
    assert measure.level_with(best, {}) == []


def test_level_with_the_best_of_several_is_by_what_the_models_share():
    """The halves differ by more than the kinds do: interval over interval they meet, half by half they lie apart."""
    ranks = torch.arange(1000)
    best = torch.stack([ranks < 600 + 40 * m for m in range(6)])
    worse = torch.stack([ranks < 580 + 40 * m + m % 2 for m in range(6)])
    assert measure.level_with(best, {"worse": worse, "same": best}) == ["same"]


def test_utility_is_accuracy_and_cross_entropy():
    logits, labels = torch.randn(1, 50, 10, generator=gen()), torch.arange(50) % 10
    accuracy, loss = measure.utility("standard", logits, labels)
    assert accuracy.value == pytest.approx((logits[0].argmax(1) == labels).double().mean().item())
    assert loss.value == pytest.approx(F.cross_entropy(logits[0], labels).item(), rel=1e-5)
    assert loss.low < loss.value < loss.high


def test_leakage_has_a_row_a_figure_over_all_targets():
    members = halves(6, 400, gen())
    logits = torch.randn(6, 400, 2, generator=gen(1)) + torch.stack([members, ~members], -1)
    done = audit("loss", logits, torch.zeros(400, dtype=torch.long), members)
    rows = measure.leakage("standard", done, epsilon=8.0)
    named = {(r.metric, r.extra.get("fpr")): r for r in rows}
    assert set(named) == {("mia_auc", None), ("mia_accuracy", None), ("mia_tpr", 0.01), ("mia_tpr", 0.001)}
    assert named["mia_auc", None].value == pytest.approx(np.mean([r.auc for r in done.rocs]))
    assert named["mia_auc", None].low > 0.5  # members do have the lower loss here
    assert all(r.extra["attack"] == "loss" and r.extra["epsilon"] == 8.0 for r in rows)


def test_single_target_covers_one_half_for_noise_and_is_exact_for_the_tail():
    members = halves(4, 2000, gen())[0]
    auc, one_percent, _ = measure.single_target("cvae", torch.rand(2000, generator=gen(3)), members, seed=0)
    assert auc.low < 0.5 < auc.high
    assert auc.high - auc.low == pytest.approx(4 * 0.0129, rel=0.2)  # Mann-Whitney: sd = sqrt((n+m+1)/(12 n m))
    n = int(members.sum())
    assert one_percent.n == n
    assert (one_percent.low, one_percent.high) == clopper_pearson(round(one_percent.value * n), n)


class Brightness(nn.Module):
    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_survivors_attacks_only_what_stands():
    images = torch.linspace(0.1, 0.9, 9).view(9, 1, 1, 1).expand(9, 1, 28, 28)
    labels = (images.mean((1, 2, 3)) > 0.5).long()
    standing = torch.ones(1, 9, dtype=torch.bool)
    standing[0, 0] = False
    sizes = []

    def towards_grey(model, x, y):
        sizes.append(len(x))
        return x + 0.25 * torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)

    def trial(model, x, y):
        return correct(model, towards_grey(model, x, y), y)

    left = measure.survivors([Brightness()], trial, images, labels, standing)
    assert sizes == [8]
    assert left[0].tolist() == [False, True, False, False, False, False, False, True, True]
    assert standing[0].sum() == 8  # the argument is left alone


def test_rows_are_rows():
    assert isinstance(measure.mean("pgd", "loss", [1.0, 2.0], n=9), Row)
    assert measure.mean("pgd", "loss", [1.0], n=9).low is None


def test_means_over_models_and_over_images_have_student_t_intervals():
    values = [0.2, 0.5, 0.3, 0.9]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    for found, n in (
        (measure.mean("pgd", "loss", values, n=50), 50),
        (measure.over_images("pgd", "exposure", torch.tensor(values, dtype=torch.double)), 4),
    ):
        assert (found.low, found.value, found.high) == pytest.approx((low, 0.475, high), rel=1e-6)
        assert found.n == n
    assert measure.mean("pgd", "loss", values, n=50).extra == {"models": 4}
    assert measure.over_images("pgd", "exposure", torch.tensor([0.5])).low is None


def test_interval_of_leakage_covers_one_half_where_nothing_leaks():
    """Shadows are shared, so the targets' plain spread would cover far too seldom."""
    covered, narrow, runs = 0, 0, 150
    for seed in range(runs):
        members = halves(8, 300, gen(seed))
        logits = torch.randn(8, 300, 2, generator=gen(1000 + seed), dtype=torch.float64)
        auc = measure.leakage("standard", audit("lira", logits, torch.zeros(300, dtype=torch.long), members))[0]
        covered += auc.low <= 0.5 <= auc.high
        narrow += abs(auc.value - 0.5) <= (auc.high - auc.low) / 2 / 2**0.5
    assert covered / runs >= 0.91
    assert narrow / runs < 0.91
