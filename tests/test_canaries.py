"""Audits of one run: on mechanisms whose epsilon is known, and on rules that break their word."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from labkit.canaries import (
    BatchClipped,
    curve_lower_bound,
    dirac,
    final_weights,
    gaussian_lower_bound,
    lower_bound,
    mislabelled,
    one_run,
    p_value,
    reach,
    refuted,
    white_box,
)
from labkit.canaries.tradeoff import gaussian, private
from labkit.data import load
from labkit.intervals import clopper_pearson
from labkit.membership import dp_region
from labkit.training import Adversarial, Private, epsilon, noise_multiplier
from labkit.training.accounting import gaussian_epsilon
from labkit.training.linear import Head
from labkit.workers import Crew

DELTA = 1e-5
RATE, STEPS = 8192 / 60_000, 60


def gaussian_game(mu, canaries, seed):
    """Every canary through a Gaussian mechanism of its own."""
    draw = np.random.default_rng(seed)
    inserted = draw.random(canaries) < 0.5
    return mu * inserted + draw.standard_normal(canaries), inserted


# Bounds


def test_with_delta_zero_the_bound_is_clopper_pearson():
    for right, guesses in ((90, 100), (400, 500), (30, 30)):
        low, _ = clopper_pearson(right, guesses, 0.9)  # two-sided at 90 %: one-sided at 95 %
        assert lower_bound(right, guesses, 1000, 0.0).epsilon == pytest.approx(math.log(low / (1 - low)), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(guesses=st.integers(1, 60), share=st.floats(0, 1), e=st.floats(0, 5), delta=st.sampled_from([0.0, 1e-5, 1e-2]))
def test_p_value_equals_its_definition(guesses, share, e, delta):
    right, m = round(share * guesses), 100
    binomial = stats.binom(guesses, math.exp(e) / (1 + math.exp(e)))
    tail = [binomial.sf(k - 1) for k in range(guesses + 1)]
    steepest = max((tail[right - i] - tail[right]) / i for i in range(1, right + 1)) if right else 0.0
    expected = min(1.0, tail[right] + 2 * m * delta * steepest)
    assert p_value(right, guesses, m, e, delta) == pytest.approx(expected, abs=1e-9)


def test_more_delta_demonstrates_less():
    bounds = [lower_bound(95, 100, 1000, delta).epsilon for delta in (0.0, 1e-6, 1e-5, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < bounds[0] - 0.5
    assert lower_bound(50, 100, 1000, 0.0).epsilon == 0.0


def test_curves_are_inverses_of_the_trade_off():
    for x in (0.01, 0.3, 0.9):
        assert dp_region(private(2.0, 1e-3, x), [(2.0, 1e-3)]) == pytest.approx(x, abs=1e-9)
        assert stats.norm.cdf(stats.norm.ppf(gaussian(1.5, x)) + 1.5) == pytest.approx(x)


def test_randomised_response_is_refuted_at_its_own_level_and_not_more_often():
    """Each coin is told truly with probability e^eps / (1 + e^eps): nothing that is eps-private tells more."""
    e, m = 1.0, 400
    truth = math.exp(e) / (1 + math.exp(e))
    curve = partial(private, e, 0.0)
    worst = next(v for v in range(m + 1) if refuted(v, m, m, curve))
    assert 0.005 < stats.binom.sf(worst - 1, m, truth) <= 0.05
    assert curve_lower_bound(round(truth * m), m, m, 0.0).epsilon < e


@pytest.mark.parametrize("bound", [lower_bound, curve_lower_bound, gaussian_lower_bound])
def test_bounds_hold_as_often_as_they_say(bound):
    mu = 1.0
    found = [one_run(*gaussian_game(mu, 400, seed), DELTA, bound=bound).epsilon for seed in range(60)]
    broken = sum(e > gaussian_epsilon(mu, DELTA) for e in found)
    assert broken <= 7  # binomial(60, 0.05): 7 or fewer in 99 % of cases


def test_a_gaussian_mechanism_is_audited_to_sixty_percent_of_its_epsilon():
    true = gaussian_epsilon(1.0, DELTA)
    scores, inserted = gaussian_game(1.0, 10_000, seed=1)
    tight = one_run(scores, inserted, DELTA, bound=gaussian_lower_bound).epsilon
    assert 0.6 * true <= tight <= true
    free = one_run(scores, inserted, DELTA, bound=curve_lower_bound).epsilon
    assert 0.45 * true <= one_run(scores, inserted, DELTA).epsilon <= free <= tight


@pytest.mark.parametrize(("bound", "mu"), [(lower_bound, 0.5), (curve_lower_bound, 0.5), (curve_lower_bound, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_so_it_is_with_no_assumption_and_many_canaries(bound, mu, seed):
    true = gaussian_epsilon(mu, DELTA)  # 2.0 and 4.4
    found = one_run(*gaussian_game(mu, 300_000, seed), DELTA, bound=bound, shares=(0.01,))
    assert 0.6 * true <= found.epsilon <= true


def test_a_coin_that_nobody_saw_demonstrates_nothing():
    _, inserted = gaussian_game(1.0, 2000, seed=2)
    scores = np.random.default_rng(3).standard_normal(2000)
    assert one_run(scores, inserted, DELTA).epsilon < 0.3


@pytest.mark.parametrize("bound", [lower_bound, curve_lower_bound])
def test_no_game_shows_more_than_the_reach(bound):
    most = reach(1000, DELTA, bound=bound)
    _, inserted = gaussian_game(1.0, 1000, seed=4)
    for told in (0.6, 0.9, 1.0):  # of the coins, by whoever sees them
        seen = np.random.default_rng(5).random(1000) < told
        assert one_run(np.where(seen, inserted, ~inserted), inserted, DELTA, bound=bound).epsilon <= most + 0.2
    assert one_run(inserted, inserted, DELTA, bound=bound).epsilon == pytest.approx(most, abs=0.2)
    assert reach(1000, 100 * DELTA, bound=bound) < most


def test_one_run_refuses():
    with pytest.raises(ValueError, match="no NaN"):
        one_run([1.0, math.nan], [True, False], DELTA)
    with pytest.raises(ValueError, match="need two of one length"):
        one_run([1.0, 2.0], [True], DELTA)
    with pytest.raises(ValueError, match="at least 2"):
        one_run([1.0], [True], DELTA)
    with pytest.raises(ValueError, match="need 0 <= right"):
        p_value(3, 2, 10, 1.0, DELTA)


# White box


def test_the_private_rule_keeps_its_word_and_is_seen_to_leak():
    claim = Private(1.0, noise_multiplier(8.0, RATE, STEPS, DELTA), 8192)
    played = white_box(claim, claim, sample_rate=RATE, steps=STEPS, canaries=3000, seed=0)
    assert 1.5 <= played.bound(DELTA).epsilon <= 8.0
    assert 2.5 <= played.bound(DELTA, bound=gaussian_lower_bound).epsilon <= 8.0


@pytest.mark.parametrize("attacked", [None, 0.1, 0.45], ids=["as they are", "at 0.1", "at 0.45"])
def test_one_step_without_sampling_is_a_gaussian_mechanism(attacked):
    claim = Private(0.5, 1.0, 3000)
    rule = claim if attacked is None else Adversarial(claim, attacked, steps=2)
    played = white_box(rule, claim, sample_rate=1.0, steps=1, canaries=3000, seed=0)
    gap = played.scores[played.inserted].mean() - played.scores[~played.inserted].mean()
    assert gap.item() == pytest.approx(1.0, abs=0.1)  # mu^2, mu = 1 / sigma
    assert played.scores[played.inserted].std().item() == pytest.approx(1.0, abs=0.1)


def test_canaries_of_several_trainings_are_seen_as_those_of_one(monkeypatch):
    claim = Private(0.5, 1.0, 3000)
    monkeypatch.setattr(dirac, "BLOCK", 700)
    found = []
    for cores in (1, 2):
        with Crew(1, each=cores):
            found.append(white_box(claim, claim, sample_rate=1.0, steps=1, canaries=3000, seed=0))
    assert torch.equal(found[0].scores, found[1].scores)  # whatever is played beside a block
    assert torch.equal(found[0].inserted, found[1].inserted)
    for block in range(0, 3000, 700):
        scores, inserted = (part[block : block + 700] for part in (found[0].scores, found[0].inserted))
        gap = scores[inserted].mean() - scores[~inserted].mean()
        assert gap.item() == pytest.approx(1.0, abs=4 * (4 / len(scores)) ** 0.5)  # four standard errors
    first, second = (found[0].scores[part] for part in (slice(700), slice(700, 1400)))
    assert not torch.allclose(first, second)  # noise of their own
    for canaries in (700, 701):  # the last one has a training to itself
        assert white_box(claim, claim, sample_rate=0.5, steps=3, canaries=canaries, seed=0).scores.shape == (canaries,)


@pytest.mark.parametrize("broken", ["a tenth of the noise", "batch clipping"])
def test_a_broken_rule_is_caught(broken):
    claim = Private(1.0, noise_multiplier(3.0, RATE, STEPS, DELTA), 8192)
    rule = {
        "a tenth of the noise": Private(1.0, claim.noise_multiplier / 10, 8192),
        "batch clipping": BatchClipped(1.0, claim.noise_multiplier, 8192),
    }[broken]
    assert epsilon(claim.noise_multiplier, RATE, STEPS, DELTA) <= 3.0
    played = white_box(rule, claim, sample_rate=RATE, steps=STEPS, canaries=1000, seed=0)
    assert played.bound(DELTA).epsilon > 3.0  # with no assumption at all


def test_heads_that_are_trained_as_they_should_be_stay_below_their_epsilon_and_near_it():
    targets = (2.0, 4.0, 8.0)
    heads = [Head(noise_multiplier(e, RATE, STEPS, DELTA), RATE, RATE * STEPS, 1.0, clip=0.1 * e) for e in targets]
    played = final_weights(heads, canaries=4000, seed=0)
    for e, game in zip(targets, played, strict=True):
        assert 0.2 * e < game.bound(DELTA, bound=curve_lower_bound).epsilon <= e
    assert torch.equal(played[0].inserted, played[1].inserted)


def test_a_head_with_too_little_noise_is_caught_by_its_weights():
    honest = Head(noise_multiplier(1.0, RATE, STEPS, DELTA), RATE, RATE * STEPS, 1.0, clip=0.1)
    (game,) = final_weights([replace(honest, noise_multiplier=honest.noise_multiplier / 10)], canaries=1000, seed=0)
    assert game.bound(DELTA).epsilon > 1.0


# Black box


def test_mislabelled_canaries_are_planted_where_they_should_be():
    data = load("digits")
    planted = mislabelled(data, 200, seed=0)
    before, after = data.train.labels[planted.places], planted.data.train.labels[planted.places]
    assert (before != after).all()
    assert (planted.data.train.labels != data.train.labels).sum() == 200
    assert torch.equal(planted.members[0, planted.places], planted.inserted)
    assert planted.members.sum() == len(data.train) - (~planted.inserted).sum()
    assert planted.data.sha256 != data.sha256
    assert 70 < planted.inserted.sum() < 130
    with pytest.raises(ValueError, match="must be 1 to"):
        mislabelled(data, 10_000, seed=0)


def test_a_model_that_learned_its_canaries_by_heart_is_caught():
    data = load("digits")
    planted = mislabelled(data, 300, seed=1)
    truth, given = data.train.labels, planted.data.train.labels
    by_heart = torch.where(planted.members[0], given, truth)  # what such a model answers
    logits = 5.0 * torch.nn.functional.one_hot(by_heart, 10)
    logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    assert planted.play(logits).bound(DELTA).epsilon > 3.0
    honest = 5.0 * torch.nn.functional.one_hot(truth, 10).float()
    honest += torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    assert planted.play(honest).bound(DELTA).epsilon < 0.5


def test_a_model_that_was_trained_without_privacy_is_caught():
    """By its answers alone; what it would have claimed is an epsilon of 1."""
    planted = mislabelled(load("digits", train_size=600, test_size=200), 300, seed=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Flatten(), torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)
    model = torch.nn.Sequential(*layers)
    images, labels = planted.data.train.batch(planted.members[0].nonzero()[:, 0])
    steps = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        steps.step()
    with torch.no_grad():
        game = planted.play(model(planted.data.train.images))
    assert game.bound(DELTA).epsilon > 1.0


# Figures


def test_the_sandwich_marks_what_breaks_its_claim():
    from labkit.plots.privacy import BROKEN, sandwich
    from labkit.plots.style import COLOURS

    claims = {"dp": 8.0, "broken": 3.0}
    rows = [{"model": model, "metric": "epsilon", "value": value, "delta": 1e-6} for model, value in claims.items()]
    rows += [
        {"model": model, "metric": "epsilon_lower_bound", "attack": "white box", "value": value}
        for model, value in (("dp", 3.1), ("broken", 6.9))
    ]
    axes = sandwich(rows).axes[0]
    assert "1e-06" in axes.get_xlabel()
    drawn = {tuple(line.get_xdata()): line.get_color() for line in axes.lines}
    assert drawn[0, 3.1] == COLOURS["dp"]
    assert drawn[0, 6.9] == BROKEN
    assert (8.0, 8.0) in drawn


def test_the_frontier_is_drawn_in_order_of_epsilon():
    from labkit.plots.privacy import frontier

    kind = {"model": "scattering", "metric": "accuracy", "delta": 1e-6}
    rows = [
        {**kind, "epsilon": e, "value": v, "low": v - 0.01, "high": v + 0.01} for e, v in ((8.0, 0.91), (1.0, 0.88))
    ]
    axes = frontier(rows, [("published", 3.0, 0.897)]).axes[0]
    assert "1e-06" in axes.get_xlabel()
    line = axes.lines[0]
    assert line.get_xdata().tolist() == [1.0, 8.0]
    assert line.get_ydata().tolist() == pytest.approx([88, 91])
