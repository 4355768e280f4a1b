"""Membership: offline LiRA, several queries, halves, exposure, by naive loops."""

import math

import pytest
import torch

from labkit import measure
from labkit.intervals import student_t
from labkit.membership import ATTACKS, Audit, by_number, exposure, features, gains, halves, lira_offline, own, shared
from labkit.membership.chance import widening
from labkit.membership.learners import profile
from labkit.membership.likelihood import OWN, surprise
from labkit.membership.signals import probability


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_offline_lira_by_hand():
    """Against the OUT shadows -1 and -3 alone: mean -2, variance 2; what the IN ones say, 100 and 300, is not asked."""
    odds = torch.tensor([[2.0], [100.0], [300.0], [-1.0], [-3.0]], dtype=torch.float64)
    logits = torch.stack([odds, torch.zeros_like(odds)], -1)
    members = torch.tensor([[True], [True], [True], [False], [False]])
    assert lira_offline(logits, torch.tensor([0]), members, 0).item() == pytest.approx((2 + 2) / math.sqrt(2))


def test_queries_are_averaged_as_each_attack_says():
    logits, labels = torch.randn(4, 30, 3, 5, generator=gen(), dtype=torch.float64), torch.arange(30) % 5
    p = logits.softmax(-1)[:, torch.arange(30), :, labels].permute(1, 0, 2)  # [M, N, Q]
    torch.testing.assert_close(probability(logits, labels).exp(), p.mean(2))
    each = torch.stack([features(logits[:, :, q], labels) for q in range(3)])
    torch.testing.assert_close(profile(logits, labels), each.mean(0))
    members, odds = halves(4, 30, gen(1)), (p / (1 - p)).log()
    torch.testing.assert_close(surprise(odds, members, 0), surprise(odds.mean(2), members, 0))


def test_a_half_is_a_half():
    members = halves(100, 1000, gen())
    assert members.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1e5))


def test_exposure_by_hand():
    members, scores = halves(5, 60, gen()), torch.randn(5, 60, generator=gen(1), dtype=torch.float64)
    found = exposure(Audit("any", scores, members, [0.0] * 5, 4))
    squares, freedom, apart = 0.0, 0, {}
    for image in range(60):
        inside, outside = (scores[side[:, image], image] for side in (members, ~members))
        for side in (inside, outside):
            if len(side):
                squares += (side - side.mean()).square().sum().item()
        if len(inside) and len(outside):
            apart[image] = (inside.mean() - outside.mean()).item()
    freedom = 5 * 60 - 2 * 60
    for image in range(60):
        if image in apart:
            assert found[image].item() == pytest.approx(apart[image] / math.sqrt(squares / freedom))
        else:
            assert math.isnan(found[image])


@pytest.mark.parametrize(
    ("attack", "shadows", "used"), [("lira", 7, 7), ("lira", 4, 4), ("loss", 4, 0), ("steadiness", 7, 0)]
)
def test_an_interval_of_leakage_is_widened_by_the_shadows_that_were_used(attack, shadows, used):
    members, values = halves(8, 40, gen()), [0.5, 0.52, 0.55, 0.51, 0.56, 0.53, 0.5, 0.57]
    row = measure.over_targets(
        "any", Audit(attack, torch.zeros(8, 40), members, [0.0] * 8, shadows), values, metric="m"
    )
    low, high = student_t(values)
    assert row.high - row.low == pytest.approx(widening(8, used) * (high - low))
    assert row.interval == ("student-t, shared shadows" if used else "student-t")


def test_the_loss_has_the_standard_error_of_its_mean():
    logits, labels = torch.randn(1, 400, 10, generator=gen()), torch.arange(400) % 10
    _, loss = measure.utility("standard", logits, labels)
    each = torch.nn.functional.cross_entropy(logits[0], labels, reduction="none")
    assert (loss.high - loss.low) / 2 == pytest.approx(1.96 * each.std().item() / 20, rel=1e-3)


def test_a_difference_may_be_negative():
    members = halves(4, 40, gen())
    done = Audit("loss", torch.zeros(4, 40), members, [0.0] * 4, 3)
    row = measure.over_targets("any", done, [-0.2, -0.1, -0.15, -0.12], metric="d", least=-1.0)
    assert row.low < row.value < 0


def test_an_image_s_own_variance_is_taken_where_every_image_has_enough_shadows():
    squares = torch.rand(2, 1, 1, generator=gen(), dtype=torch.float64)
    for least, way in ((OWN - 2, shared), (OWN - 1, own)):
        freedom = torch.tensor([least, 500])
        assert torch.equal(by_number(squares, freedom), way(squares, freedom))


@pytest.mark.parametrize("name", ["threshold", "loss"])
def test_attacks_without_shadows_look_at_the_image_itself(name):
    logits, labels = torch.randn(4, 30, 3, 5, generator=gen(), dtype=torch.float64), torch.arange(30) % 5
    members = halves(4, 30, gen(1))
    found, first = (ATTACKS[name](answers, labels, members, 0) for answers in (logits, logits[:, :, 0]))
    assert torch.equal(found, first)


def test_each_gain_is_of_the_sets_so_far():
    class Spy:
        def fit(self, x, y):
            seen.append(x.shape[1])
            return self

        def decision_function(self, x):
            return x[:, 0]

    seen, sets = [], {"a": torch.rand(4, 30), "b": torch.rand(4, 30, 3), "c": torch.rand(4, 30)}
    found = gains(sets, halves(4, 30, gen()), learner=Spy)
    assert list(found) == list("abc")
    assert sorted(seen) == [1] * 8 + [4] * 8 + [5] * 8  # four targets, and four models for their thresholds


def test_an_accuracy_s_interval_over_models_ends_at_one():
    outcomes = torch.ones(3, 50, dtype=torch.bool)
    outcomes[0, :9] = False
    row = measure.fraction("standard", "accuracy", outcomes)
    assert student_t(outcomes.double().mean(1).tolist())[1] > 1 == row.high
