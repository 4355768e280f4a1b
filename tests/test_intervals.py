"""Intervals against scipy's own, and against how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from labkit.intervals import area, bootstrap, clopper_pearson, rank_correlation, student_t, wilson

COUNTS = [(0, 1), (1, 1), (0, 50), (50, 50), (1, 1000), (7, 10), (2547, 3000), (9999, 10_000)]


@pytest.mark.parametrize(("successes", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("ours", "theirs"), [(wilson, "wilson"), (clopper_pearson, "exact")])
def test_proportions_agree_with_scipy(ours, theirs: str, successes: int, n: int, level: float) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(level, method=theirs)
    assert ours(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, 0), (math.nan, 10)])
def test_impossible_counts_are_refused(interval, successes: float, n: int) -> None:
    with pytest.raises(ValueError, match=f"successes = {successes} of n = {n}"):
        interval(successes, n)


@pytest.mark.parametrize(("interval", "least"), [(wilson, 0.93), (clopper_pearson, 0.95)])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.87])
def test_proportions_hold_the_truth(interval, least: float, p: float) -> None:
    # Exact coverage: every outcome of 200 trials, weighted by its probability.
    n = 200
    held = [low <= p <= high for low, high in (interval(k, n) for k in range(n + 1))]
    coverage = float(np.sum(stats.binom.pmf(np.arange(n + 1), n, p) * held))
    assert least <= coverage <= 0.99


def test_student_t_agrees_with_scipy() -> None:
    values = [0.871, 0.869, 0.874, 0.880]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_t(values) == pytest.approx((expected.low, expected.high))
    assert student_t([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_a_spread_needs_two_models(values: list[float]) -> None:
    with pytest.raises(ValueError, match=rf"{len(values)} value\(s\): a spread needs two"):
        student_t(values)


def test_bootstrap_agrees_with_scipy_on_a_mean() -> None:
    x = np.random.default_rng(0).exponential(size=400)
    low, high = bootstrap(lambda i: x[i].mean(), x.size, seed=1, resamples=4000)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2))
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_bootstrap_holds_the_truth() -> None:
    samples = np.random.default_rng(3).normal(size=(400, 80))
    held = 0
    for seed, x in enumerate(samples):
        low, high = bootstrap(lambda i, x=x: x[i].mean(), x.size, seed=seed, resamples=200)
        held += low <= 0 <= high
    # 400 intervals at 95 %: a share below 0.90 or above 0.99 has a probability under 1e-4.
    assert 0.90 <= held / 400 <= 0.99


def test_bootstrap_is_repeatable_and_wider_at_a_higher_level() -> None:
    x = np.random.default_rng(0).normal(size=100)
    assert bootstrap(lambda i: x[i].mean(), 100, seed=1) == bootstrap(lambda i: x[i].mean(), 100, seed=1)
    assert bootstrap(lambda i: x[i].mean(), 100, seed=1) != bootstrap(lambda i: x[i].mean(), 100, seed=2)
    narrow, wide = (bootstrap(lambda i: x[i].mean(), 100, seed=1, level=level) for level in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_bootstrap_passes_over_undefined_draws() -> None:
    x = np.array([0.0, 1.0])
    low, high = bootstrap(lambda i: x[i].mean() if x[i].any() else math.nan, 2, seed=0)
    assert (low, high) == (0.5, 1.0)


@pytest.mark.parametrize("distinct", [3, 40, 10_000])  # many ties, some, none
def test_rank_correlation_agrees_with_scipy_in_every_resample(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    a = rng.integers(0, distinct, 60) / 7
    b = rng.normal(size=60).round(1) - 0.3 * a / distinct
    value, span = rank_correlation(a, b, seed=5)
    assert value == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    assert span == pytest.approx(bootstrap(lambda i: stats.spearmanr(a[i], b[i])[0], 60, seed=5), abs=1e-12)


@pytest.mark.parametrize("distinct", [2, 40, 10_000])  # many ties, some, none
def test_the_area_agrees_with_scikit_learn_in_every_resample(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    scores, members = rng.integers(0, distinct, 60) / 7, rng.random(60) < 0.4
    expected = bootstrap(lambda i: roc_auc_score(members[i], scores[i]), 60, seed=5)
    assert area(scores, members, seed=5) == pytest.approx(expected, abs=1e-12)


def test_a_resample_of_one_kind_says_nothing_of_the_area() -> None:
    low, high = area(np.array([0.0, 1.0]), np.array([False, True]), seed=0)
    assert low == high == 1.0


def test_nothing_correlates_with_a_constant() -> None:
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        value, span = rank_correlation(np.ones(20), np.arange(20), seed=0)
    assert all(map(math.isnan, (value, *span)))


def test_ends_are_plain_floats() -> None:
    ends = (*wilson(3, 10), *clopper_pearson(0, 10), *clopper_pearson(10, 10), *student_t([1, 2]))
    assert all(type(end) is float for end in (*ends, *bootstrap(lambda i: float(i.mean()), 5, 0)))
