"""Membership attacks against closed forms, other libraries, and logits built by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from labkit.membership import (
    ATTACKS,
    accuracy_at,
    audit,
    boosted,
    by_number,
    calibrated,
    dp_region,
    exposure,
    features,
    full,
    gains,
    halves,
    in_turn,
    learn,
    learned,
    likelihood_ratio,
    lira,
    lira_offline,
    log_odds,
    log_odds_of,
    log_probability,
    own,
    precision,
    relative,
    rmia,
    roc,
    shared,
    smallest,
)
from labkit.membership.chance import widening
from labkit.training.accounting import gaussian_epsilon


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian_ensemble(models=64, images=2000, shift=1.0, seed=0):
    """Two-class logits whose log-odds are N(mu_x, 1) for non-members and N(mu_x + shift, 1) for members.

    The likelihood ratio is then known: its AUC is Phi(shift / sqrt 2).
    """
    g = gen(seed)
    members = halves(models, images, g)
    difficulty = 3 * torch.randn(images, generator=g, dtype=torch.float64)
    odds = difficulty + shift * members + torch.randn(models, images, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 2, (images,), generator=g)
    signed = torch.where(labels == 1, odds, -odds)
    logits = torch.stack([torch.zeros_like(signed), signed], -1)  # [M, N, 2]
    return logits, labels, members


# ROC


@settings(max_examples=60, deadline=None)
@given(
    scores=arrays(np.float64, st.integers(4, 60), elements=st.integers(-5, 5).map(float)),
    seed=st.integers(0, 1000),
)
def test_roc_agrees_with_scikit_learn(scores, seed):
    truth = np.random.default_rng(seed).integers(0, 2, len(scores)).astype(bool)
    truth[:2] = [True, False]
    ours = roc(scores, truth)
    assert ours.auc == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.tpr, tpr)
    np.testing.assert_allclose(ours.thresholds, thresholds)
    assert ours.balanced_accuracy == pytest.approx(((tpr + 1 - fpr) / 2).max())
    assert accuracy_at(ours.best_threshold, scores, truth) == pytest.approx(ours.balanced_accuracy)
    for level in (0.0, 0.1, 0.5, 1.0):
        assert ours.tpr_at(level) == pytest.approx(tpr[fpr <= level].max())


def test_roc_by_hand():
    curve = roc([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0])
    assert curve.auc == 0.75
    assert curve.tpr_at(0.0) == 0.5
    assert curve.tpr_at(0.49) == 0.5
    assert curve.tpr_at(0.5) == 1.0
    assert roc([1.0, 1.0, 1.0], [1, 0, 0]).auc == 0.5
    assert roc([math.inf, 0.0], [1, 0]).auc == 1.0


@pytest.mark.parametrize(
    ("scores", "members", "message"),
    [
        ([1.0, float("nan")], [1, 0], "NaN"),
        ([1.0, 2.0], [1, 1], "needs both"),
        ([1.0, 2.0], [0, 0], "needs both"),
        ([1.0, 2.0], [1, 0, 1], "equally long"),
        ([[1.0, 2.0]], [[1, 0]], "one-dimensional"),
        ([1.0, 2.0], [1, 2], "True or False"),
    ],
)
def test_roc_refuses(scores, members, message):
    with pytest.raises(ValueError, match=message):
        roc(scores, members)


def test_dp_region_is_reached_by_randomised_response_and_by_nothing_else():
    epsilon = 1.5
    p = math.exp(epsilon) / (1 + math.exp(epsilon))  # tells the truth with probability p
    assert dp_region(1 - p, [(epsilon, 0.0)]) == pytest.approx(p)
    grid = np.linspace(0, 1, 50)
    assert dp_region(grid, [(0.0, 0.0)]) == pytest.approx(grid)
    assert (np.diff(dp_region(grid, [(epsilon, 1e-5)])) >= 0).all()
    # A Gaussian mechanism with this noise is (1, 1e-5)-private: its own ROC must lie inside.
    sigma = math.sqrt(2 * math.log(1.25 / 1e-5))
    tpr = norm.cdf(norm.ppf(grid[1:-1]) + 1 / sigma)
    assert (tpr <= dp_region(grid[1:-1], [(1.0, 1e-5)]) + 1e-12).all()


def test_all_guarantees_of_a_gaussian_mechanism_together_are_its_own_curve():
    """Dong, Roth and Su (2022): N(0, 1) is told from N(mu, 1) with TPR = Phi(Phi^-1(FPR) + mu), and no better."""
    grid, mu = np.geomspace(1e-4, 0.5, 20), 1.2
    exact = norm.cdf(norm.ppf(grid) + mu)
    several = dp_region(grid, [(gaussian_epsilon(mu, delta), delta) for delta in np.geomspace(1e-6, 0.4, 200)])
    assert (several >= exact - 1e-9).all()
    assert several == pytest.approx(exact, rel=0.01)
    assert dp_region(1e-4, [(gaussian_epsilon(mu, 1e-5), 1e-5)]) > 3 * exact[0]  # one alone says much less


# Signals


def test_log_odds_equals_its_definition_and_does_not_overflow():
    logits = torch.randn(50, 10, generator=gen(), dtype=torch.float64)
    labels = torch.arange(50) % 10
    p = logits.softmax(1)[torch.arange(50), labels]
    torch.testing.assert_close(log_odds(logits, labels), (p / (1 - p)).log())
    extreme = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]])
    assert log_odds(extreme, torch.tensor([0, 0])).tolist() == [2000.0, -2000.0]


def test_log_odds_from_losses_are_those_from_logits():
    logits = 12 * torch.randn(500, 10, generator=gen(3), dtype=torch.float64)
    labels = torch.randint(0, 10, (500,), generator=gen(4))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    sure = losses > 1e-9  # below, the difference of logits from their log-sum rounds away
    torch.testing.assert_close(log_odds_of(losses)[sure], log_odds(logits, labels)[sure], rtol=1e-6, atol=1e-6)
    assert log_odds_of(torch.tensor([0.0, 1e-30, 700.0])).isfinite().all()


def test_the_surest_images_are_told_apart():
    """Where p rounds to 1: a model that knows its members by heart answers many images so, and others nearly so."""
    margins = torch.linspace(30, 80, 51)
    logits = torch.stack([margins, torch.zeros(51), torch.zeros(51)], 1)[None]  # [1, 51, 3]
    labels = torch.zeros(51, dtype=torch.int64)
    loss = -log_probability(logits, labels)[0]
    torch.testing.assert_close(loss, 2 * (-margins.double()).exp(), rtol=1e-9, atol=0)
    assert torch.equal(features(logits, labels)[0, :, 0], loss)
    torch.testing.assert_close(log_odds_of(loss.float()), log_odds(logits, labels)[0], rtol=1e-6, atol=0)


def test_features_by_hand():
    logits = torch.tensor([[[2.0, 0.0, 0.0]]], dtype=torch.float64).log_softmax(-1)
    p = math.exp(2) / (math.exp(2) + 2)
    q = (1 - p) / 2
    loss, confidence, entropy, margin, right = features(logits, torch.tensor([0]))[0, 0].tolist()
    assert (loss, confidence, margin, right) == pytest.approx((-math.log(p), p, 2.0, 1.0))
    assert entropy == pytest.approx(-(p * math.log(p) + 2 * q * math.log(q)))
    assert features(torch.tensor([[[500.0, -500.0]]]), torch.tensor([1])).isfinite().all()


# Attacks


@pytest.mark.parametrize("shift", [0.5, 1.5])
def test_lira_reaches_the_known_likelihood_ratio(shift):
    logits, labels, members = gaussian_ensemble(models=160, images=4000, shift=shift)
    exact = norm.cdf(shift / math.sqrt(2))
    values = [roc(lira(logits, labels, members, t), members[t]).auc for t in range(4)]
    assert np.mean(values) == pytest.approx(exact, abs=0.01)


def test_lira_by_hand():
    # One image, log-odds 1, 3 under IN shadows and -1, -3 under OUT ones: unit-like variances 2 (one lost degree each).
    odds = torch.tensor([[2.0], [1.0], [3.0], [-1.0], [-3.0]], dtype=torch.float64)
    logits = torch.stack([odds, torch.zeros_like(odds)], -1)
    members = torch.tensor([[True], [True], [True], [False], [False]])
    expected = norm.logpdf(2, 2, math.sqrt(2)) - norm.logpdf(2, -2, math.sqrt(2))
    assert lira(logits, torch.tensor([0]), members, 0).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_reads_the_targets_own_membership(name):
    logits, labels, members = gaussian_ensemble(models=8, images=300)
    flipped = members.clone()
    flipped[2] = ~flipped[2]
    torch.testing.assert_close(
        ATTACKS[name](logits, labels, members, 2), ATTACKS[name](logits, labels, flipped, 2), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("models", [4, 8])
def test_every_attack_scores_one_half_where_there_is_nothing_to_find(name, models):
    """Also with few shadows, where a design that balances the columns would betray the target's membership."""
    aucs = []
    for seed in range(6):
        logits, labels, members = gaussian_ensemble(models=models, images=1500, shift=0.0, seed=seed)
        aucs += [r.auc for r in audit(name, logits, labels, members).rocs]
    assert abs(np.mean(aucs) - 0.5) < 4 * np.std(aucs) / math.sqrt(len(aucs)) + 1e-9


def test_calibrated_attacks_beat_the_uncalibrated_ones():
    logits, labels, members = gaussian_ensemble(models=32, images=2000, shift=1.0)
    auc = {name: np.mean([r.auc for r in audit(name, logits, labels, members).rocs]) for name in ATTACKS}
    assert auc["lira"] > auc["loss"] + 0.1  # difficulty varies three times as much as membership shifts
    assert auc["rmia"] > auc["loss"] + 0.05
    assert auc["learned"] >= auc["threshold"] - 0.01


def test_rmia_ranks_as_its_definition_says():
    logits, labels, members = gaussian_ensemble(models=10, images=200)
    p = logits.softmax(-1).gather(-1, labels.expand(10, -1).unsqueeze(-1)).squeeze(-1)  # [M, N]
    others, seen = p[1:], members[1:]
    mixed = torch.stack([(others[seen[:, x], x].mean() + others[~seen[:, x], x].mean()) / 2 for x in range(200)])
    ratio = p[0] / mixed
    for gamma in (1.0, 2.0):
        expected = (ratio[:, None] / ratio[None, :] >= gamma).double().mean(1)
        torch.testing.assert_close(rmia(logits, labels, members, 0, gamma=gamma), expected, rtol=0, atol=0.0051)


def test_learned_attacker_finds_what_its_features_show():
    logits, labels, members = gaussian_ensemble(models=8, images=2000, shift=4.0)
    assert roc(learned(logits, labels, members, 0), members[0]).auc > 0.7


def test_balanced_accuracy_uses_thresholds_of_other_models():
    logits, labels, members = gaussian_ensemble(models=6, images=400, shift=1.0)
    done = audit("loss", logits, labels, members)
    oracle = [r.balanced_accuracy for r in done.rocs]
    assert all(a <= b + 1e-12 for a, b in zip(done.accuracies, oracle, strict=True))
    assert np.mean(done.accuracies) < np.mean(oracle)


def test_fewer_shadows_are_the_models_that_follow():
    seen = []

    def score(rows, target):
        seen.append(rows.tolist())
        return torch.rand(40, generator=gen(len(seen)))

    found = in_turn("any", score, halves(6, 40, gen()), shadows=3)
    own = [[t, (t + 1) % 6, (t + 2) % 6, (t + 3) % 6] for t in range(6)]
    rest = [rows[1:] for rows in own]  # the threshold comes from the next model, without the target
    assert sorted(seen) == sorted(own + rest)  # several threads ask
    assert found.scores.shape == (6, 40)
    for wrong in (2, 6):
        with pytest.raises(ValueError, match=f"{wrong} shadows of 6 models"):
            in_turn("any", score, halves(6, 40, gen()), shadows=wrong)


def test_more_shadows_tell_more():
    logits, labels, members = gaussian_ensemble(models=16, images=1500, shift=1.5)
    auc = {k: np.mean([r.auc for r in audit("lira", logits, labels, members, shadows=k).rocs]) for k in (3, 15)}
    assert auc[3] + 0.02 < auc[15] <= norm.cdf(1.5 / math.sqrt(2)) + 0.01


def test_images_that_all_shadows_saw_carry_no_evidence():
    logits, labels, members = gaussian_ensemble(models=6, images=50)
    members[1:, 0] = True
    members[1:, 1] = False
    assert lira(logits, labels, members, 0)[:2].tolist() == [0.0, 0.0]
    assert rmia(logits, labels, members, 0).isfinite().all()
    members[1:] = True
    with pytest.raises(ValueError, match="more of them"):
        lira(logits, labels, members, 0)


@pytest.mark.parametrize("attack", [lira, rmia, learned])
def test_shapes_that_do_not_fit(attack):
    logits, labels, members = gaussian_ensemble(models=6, images=50)
    with pytest.raises(ValueError, match="need bool"):
        attack(logits, labels, members[:, :-1], 0)
    with pytest.raises(ValueError, match="need bool"):
        attack(logits, labels, members.double(), 0)
    with pytest.raises(ValueError, match="none of the 6 models"):
        attack(logits, labels, members, 6)


def probability_ensemble(models=160, images=4000, shift=0.5, spread=0.35, seed=0):
    """Two-class logits whose log-probability of the true class is N(mu_x + shift if a member, spread^2).

    p(x | target) over its mean over shadows is then the likelihood ratio, but for a factor that is the image's own.
    Its AUC is Phi(shift / (spread sqrt 2)).
    """
    g = gen(seed)
    members = halves(models, images, g)
    difficulty = -4 - torch.rand(images, generator=g, dtype=torch.float64)  # low enough to stay below log 1
    log_p = difficulty + shift * members + spread * torch.randn(models, images, generator=g, dtype=torch.float64)
    logits = torch.stack([log_p, (-log_p.exp()).log1p()], -1)  # [M, N, 2]
    return logits, torch.zeros(images, dtype=torch.long), members


@pytest.mark.parametrize("shift", [0.2, 0.5])
def test_rmia_reaches_the_known_likelihood_ratio(shift):
    logits, labels, members = probability_ensemble(shift=shift)
    exact = norm.cdf(shift / (0.35 * math.sqrt(2)))
    values = [roc(rmia(logits, labels, members, t), members[t]).auc for t in range(4)]
    assert np.mean(values) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("spread", [shared, own, by_number])
@pytest.mark.parametrize("attack", [lira, lira_offline])
def test_every_way_of_lira_reaches_the_known_likelihood_ratio(attack, spread):
    """All images have one variance here, so that a variance of each image's own only costs a little."""
    logits, labels, members = gaussian_ensemble(models=200, images=4000)
    exact = norm.cdf(1 / math.sqrt(2))
    values = [roc(attack(logits, labels, members, t, spread=spread), members[t]).auc for t in range(4)]
    assert np.mean(values) == pytest.approx(exact, abs=0.01)


def test_own_variance_pays_where_variances_differ():
    g = gen(3)
    members = halves(160, 3000, g)
    width = torch.where(torch.arange(3000) % 2 == 0, 0.3, 3.0).double()  # half of the images tell much, half nothing
    signal = members + width * torch.randn(160, 3000, generator=g, dtype=torch.float64)
    at = {
        way: np.mean([roc(likelihood_ratio(signal, members, t, spread=way), members[t]).tpr_at(0.01) for t in range(4)])
        for way in (shared, own)
    }
    assert at[own] > 2 * at[shared]


def test_queries_add_up_as_independent_evidence():
    """Two queries with noise of their own: the shift counts sqrt 2 times; two equal ones add nothing."""
    g = gen(5)
    members = halves(160, 3000, g)
    noise = torch.randn(160, 3000, 2, generator=g, dtype=torch.float64)
    signal = members[..., None] + noise
    for queries, exact in ((signal, norm.cdf(1.0)), (signal[..., :1].expand(-1, -1, 2), norm.cdf(1 / math.sqrt(2)))):
        found = [roc(likelihood_ratio(queries, members, t), members[t]).auc for t in range(4)]
        assert np.mean(found) == pytest.approx(exact, abs=0.01)
    torch.testing.assert_close(
        likelihood_ratio(signal[..., :1], members, 0), likelihood_ratio(signal[..., 0], members, 0)
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_takes_queries(name):
    logits, labels, members = gaussian_ensemble(models=8, images=200)
    alone = ATTACKS[name](logits, labels, members, 0)
    torch.testing.assert_close(ATTACKS[name](logits[:, :, None], labels, members, 0), alone)
    assert ATTACKS[name](torch.stack([logits, logits], 2), labels, members, 0).isfinite().all()
    with pytest.raises(ValueError, match="queries"):
        ATTACKS[name](logits[:, :, 0], labels, members, 0)


def test_calibrated_loss_by_hand():
    logits, labels, members = gaussian_ensemble(models=6, images=40)
    loss = features(logits, labels)[..., 0]  # [M, N]
    found = calibrated(logits, labels, members, 2)
    for image in range(40):
        out = [m for m in range(6) if m != 2 and not members[m, image]]
        expected = loss[out, image].mean() - loss[2, image] if out else 0.0
        assert found[image].item() == pytest.approx(float(expected))


def test_full_puts_the_true_class_first_and_loses_nothing():
    logits = torch.randn(3, 20, 10, generator=gen(), dtype=torch.float64)
    labels = torch.arange(20) % 10
    found = full(logits, labels)
    torch.testing.assert_close(found[..., 0], -features(logits, labels)[..., 0])
    assert (found[..., 1:-1] >= found[..., 2:]).all()
    torch.testing.assert_close(found.sort(-1).values, logits.log_softmax(-1).sort(-1).values)


def test_a_feature_that_tells_adds_and_one_that_does_not_adds_nothing():
    g = gen(1)
    members = halves(6, 1500, g)
    empty = torch.randn(6, 1500, 3, generator=g)
    telling = members + torch.randn(6, 1500, generator=g)  # one number a model and image
    table = gains({"empty": empty, "telling": telling}, members)
    auc = {name: np.mean([r.auc for r in found.rocs]) for name, found in table.items()}
    assert auc["empty"] == pytest.approx(0.5, abs=0.02)
    assert auc["telling"] == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.02)


def test_boosting_sees_an_interaction_that_logistic_regression_does_not():
    g = gen(2)
    members = halves(5, 1500, g)
    sign = torch.randint(0, 2, (5, 1500), generator=g) * 2.0 - 1
    hidden = torch.stack([sign, sign * (members * 2 - 1) + 0.3 * torch.randn(5, 1500, generator=g)], -1)  # [M, N, 2]
    assert roc(learn(hidden, members, 0), members[0]).auc < 0.6
    assert roc(learn(hidden, members, 0, learner=boosted), members[0]).auc > 0.95


def test_rmia_ranks_relative_likelihoods():
    members = halves(5, 200, gen(1))
    logits, labels = torch.randn(5, 200, 10, generator=gen(2)), torch.arange(200) % 10
    log_p = logits.double().log_softmax(-1)[:, torch.arange(200), labels]
    ratio = relative(log_p, members, 2)
    between = members[[0, 1, 3, 4]].sum(0)
    for image in ((between > 0) & (between < 4)).nonzero()[:20, 0].tolist():  # one by one, as the paper has it
        p = {True: [], False: []}
        for shadow in (0, 1, 3, 4):
            p[bool(members[shadow, image])].append(log_p[shadow, image].exp())
        prior = sum(sum(side) / len(side) for side in p.values()) / 2
        assert ratio[image] == pytest.approx((log_p[2, image].exp() / prior).log())
    assert rmia(logits, labels, members, 2).argsort().equal(ratio.argsort())


def test_an_attack_that_says_yes_or_no_is_not_graded():
    members, labels = halves(4, 100, gen(1)), torch.arange(100) % 10
    logits = torch.randn(4, 100, 10, generator=gen(2))
    assert not audit("threshold", logits, labels, members).graded
    assert audit("loss", logits, labels, members).graded


def test_exposure_finds_who_is_exposed():
    g = gen(4)
    members = halves(40, 300, g)
    odds = torch.randn(40, 300, generator=g, dtype=torch.float64)
    odds[:, :10] += 3 * members[:, :10]  # ten images out of 300
    logits = torch.stack([torch.zeros_like(odds), odds], -1)
    most = exposure(audit("loss", logits, torch.ones(300, dtype=torch.long), members)).argsort(descending=True)
    assert set(most[:10].tolist()) == set(range(10))


# What could be told from chance


def test_the_smallest_effects_are_found_four_times_in_five():
    """By simulation: scores of two Gaussians a shift apart, judged by a Student t interval over targets."""
    from labkit.intervals import student_t

    targets, n, fpr = 12, 1000, 0.01
    least = smallest(targets, n, n, fpr=fpr, shared_shadows=False)
    assert 0.5 < least.auc < 0.52
    assert least.guessing == 11 / 1001
    assert least.guessing < least.tpr < 0.03
    rng = np.random.default_rng(0)
    truth = np.repeat([True, False], n)
    shifts = {"auc": math.sqrt(2) * norm.ppf(least.auc), "tpr": norm.ppf(least.tpr) - norm.ppf(least.guessing)}
    for figure, shift in shifts.items():
        found = 0
        for _ in range(120):
            curves = [roc(rng.standard_normal(2 * n) + shift * truth, truth) for _ in range(targets)]
            values = [c.auc if figure == "auc" else c.tpr_at(fpr) for c in curves]
            found += student_t(values)[0] > (0.5 if figure == "auc" else least.guessing)
        assert 0.68 <= found / 120 <= 0.92, figure


@pytest.mark.parametrize("shadows", [11, 8, 6, 5, 3])
def test_intervals_are_widened_by_as_much_as_targets_share(shadows):
    """By simulation: what a target scores is the mean of its agreements with its shadows, each the same both ways."""
    targets, rng = 12, np.random.default_rng(0)
    agree = rng.standard_normal((20_000, targets, targets))
    agree = np.triu(agree, 1) + np.swapaxes(np.triu(agree, 1), 1, 2)
    steps = (np.arange(targets)[:, None] + np.arange(1, shadows + 1)) % targets  # [M, k], the next k in a circle
    scores = agree[:, np.arange(targets)[:, None], steps].mean(2)  # [runs, M]
    told = scores.var(1, ddof=1).mean() / targets
    assert widening(targets, shadows) == pytest.approx((scores.mean(1).var() / told) ** 0.5, rel=0.03)
    if shadows == targets - 1:
        assert widening(targets, shadows) == pytest.approx((2 * 11 / 10) ** 0.5)


def test_more_targets_and_images_tell_smaller_effects():
    few, many = smallest(8, 500, 500, fpr=0.01), smallest(64, 5000, 5000, fpr=0.01)
    assert few.auc > many.auc > 0.5
    assert few.tpr > many.tpr > many.guessing > 0.01
    assert smallest(8, 500, 500, fpr=0.01).auc > smallest(8, 500, 500, fpr=0.01, shared_shadows=False).auc
    with pytest.raises(ValueError, match="3 targets or more"):
        smallest(2, 500, 500, fpr=0.01)


def test_precision_by_bayes():
    assert precision(0.1, 0.001, 0.5) == pytest.approx(0.1 / 0.101)
    assert precision(0.1, 0.001, 0.01) == pytest.approx(0.001 / (0.001 + 0.99 * 0.001))
    assert precision(0.3, 0.3, 0.1) == pytest.approx(0.1)  # guessing: the prior
    assert math.isnan(precision(0.0, 0.0, 0.1))


# Halves


@settings(max_examples=20, deadline=None)
@given(models=st.integers(4, 12), images=st.integers(2, 301), seed=st.integers(0, 100))
def test_halves_are_halves(models, images, seed):
    members = halves(models, images, gen(seed))
    assert members.shape == (models, images)
    assert torch.equal(members, halves(models, images, gen(seed)))


def test_halves_are_independent():
    members = halves(200, 400, gen()).double()
    assert members.mean(0).std().item() == pytest.approx(math.sqrt(0.25 / 200), rel=0.15)  # binomial columns
    assert members.mean(1).std().item() == pytest.approx(math.sqrt(0.25 / 400), rel=0.2)  # and rows: sizes vary
    with pytest.raises(ValueError, match="at least 4"):
        halves(3, 10, gen())


def test_rmia_far_below_what_a_probability_holds():
    """Shadows at -900 nats: the target's ratio is the difference of logarithms."""
    members = halves(6, 4, gen())
    log_p = torch.full((6, 4), -900.0)
    log_p[0] += torch.tensor([20.0, 0.0, -5.0, 1.0])
    torch.testing.assert_close(relative(log_p, members, 0), torch.tensor([20.0, 0.0, -5.0, 1.0]).double())


@pytest.mark.parametrize("attack", [rmia, lira, lira_offline, calibrated])
def test_what_cannot_be_scored_is_named(attack):
    members, labels = halves(6, 40, gen()), torch.zeros(40, dtype=torch.long)
    logits = torch.randn(6, 40, 3, generator=gen())
    for wrong in (labels[:-1], labels[:1]):
        with pytest.raises(ValueError, match="one label an image"):
            attack(logits, wrong, members, 0)
    logits[2, 7] = torch.nan
    with pytest.raises(ValueError, match="1 images have scores that are not finite"):
        attack(logits, labels, members, 0)


def test_a_curve_of_bfloat16():
    scores, members = torch.randn(50, generator=gen()).bfloat16(), torch.arange(50) % 2 == 0
    assert roc(scores, members).auc == roc(scores.float(), members).auc
