"""Audits: what a right guess refutes, the level that each share is tried at, what a canary is scored by."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from labkit.canaries import LowerBound, final_weights, one_run, refuted, white_box
from labkit.canaries import heads as heads_module
from labkit.canaries.tradeoff import gaussian
from labkit.training import Private
from labkit.training.linear import Head


def test_every_share_is_tried_at_a_level_that_pays_for_all():
    asked = []

    def spy(right, guesses, canaries, delta, *, level):
        asked.append((right, guesses, level))
        return LowerBound(float(right), delta, right, guesses, canaries, level)

    coins = np.arange(100) < 50
    found = one_run(-np.arange(100.0), coins, 1e-5, bound=spy, shares=(0.1, 0.5))
    assert asked == [(10, 10, pytest.approx(0.975)), (50, 50, pytest.approx(0.975))]
    assert found.level == 0.95


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_with_one_canary_only_what_a_likelihood_ratio_test_does_not_reach_is_refuted(mu):
    """m = r = 1: one right guess of a fair coin has probability Phi(mu / 2) under N(0, 1) against N(mu, 1)."""
    most = stats.norm.cdf(mu / 2)
    assert not refuted(1, 1, 1, partial(gaussian, mu), level=1 - 0.999 * most)
    assert refuted(1, 1, 1, partial(gaussian, mu), level=1 - 1.001 * most)


def test_a_canary_s_score_is_its_likelihood_ratio_under_sampling():
    """A rule without noise: a canary is seen to be in the batch (1) or not (0), and weighed as the claim says."""
    rule, claim = Private(1.0, 1e-9, 100), Private(1.0, 2.0, 100)
    played = white_box(rule, claim, sample_rate=0.25, steps=1, canaries=200, seed=0)
    out, inside = (math.log(0.75 + 0.25 * math.exp((seen - 0.5) / 4)) for seen in (0, 1))
    drawn = played.scores > (out + inside) / 2
    torch.testing.assert_close(played.scores, torch.where(drawn, inside, out).double(), rtol=0, atol=1e-4)
    assert not (drawn & ~played.inserted).any()
    assert 0 < drawn.sum() < played.inserted.sum() / 2


def test_a_canary_of_a_head_is_longer_than_its_clip():
    """Else it would not be clipped, and a head that does not clip would pass."""
    seen = []

    def train_heads(features, labels, heads, *args, classes):
        seen.append(features.norm(dim=1).min().item() / max(head.clip for head in heads))
        return torch.zeros(len(heads), classes, features.shape[1] + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads_module, "train_heads", train_heads)
        final_weights([Head(1.0, 0.5, 1, 1.0, clip) for clip in (0.1, 12.0)], canaries=50, seed=0)
    assert seen[0] >= 5
