"""A lower bound on epsilon from one run: Steinke, Nasr and Jagielski (2023).

A coin is tossed for each of m canaries, those with heads are trained on, and the auditor guesses the coins, abstaining
where he is unsure. No (epsilon, delta)-private training lets him guess too many of them right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from labkit.intervals import LEVEL

# Of the canaries, to be guessed about: only where the auditor is sure, or nearly all. In simulated Gaussian games
# lower_bound shows with 0.05 what it does with 0.03 up to an epsilon of 6, and more at 8, above all with few canaries.
SHARES = (0.05, 0.9)
MOST = 100.0  # epsilon beyond which nothing is searched


@dataclass(frozen=True)
class LowerBound:
    """What an audit demonstrates.

    Attributes:
        epsilon: no epsilon below it, at this delta, is consistent with the guesses; 0 where they show nothing.
        delta: as claimed.
        right, guesses, canaries: r guesses on m canaries, of which v are right.
        level: confidence.
    """

    epsilon: float
    delta: float
    right: int
    guesses: int
    canaries: int
    level: float


class Bound(Protocol):
    """From guesses to the epsilon that they refute."""

    def __call__(self, right: int, guesses: int, canaries: int, delta: float, *, level: float) -> LowerBound: ...


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Most probable that (epsilon, delta)-privacy makes as many right guesses: theorem 5.2.

    With delta 0 the number of right guesses is no larger than a binomial one with success e^eps / (1 + e^eps); delta
    lets an adversary lift it by i with probability at most 2 m delta / i.

    Args:
        right: v, in 0 .. r; guesses: r, in 0 .. m; canaries: m.
        epsilon: at least 0; delta: in [0, 1).

    Returns:
        in [0, 1].

    Raises:
        ValueError: counts out of order.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(
            f"right = {right}, guesses = {guesses}, canaries = {canaries}: need 0 <= right <= guesses <= canaries"
        )
    success = 1 / (1 + np.exp(-epsilon))
    at_least = stats.binom.sf(right - 1, guesses, success)
    # P[v - i <= B < v] / i for i = 1 .. v
    near = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, success)) / np.arange(1, right + 1)
    return float(min(1.0, at_least + 2 * canaries * delta * near.max(initial=0.0)))


def lower_bound(right: int, guesses: int, canaries: int, delta: float, *, level: float = LEVEL) -> LowerBound:
    """Largest epsilon that the guesses refute with confidence ``level``.

    With delta 0 and a guess on every canary this is the one-sided Clopper-Pearson bound on the share of right
    guesses, as log-odds.

    Args are as for :func:`p_value`; the guesses must not have been chosen by their outcome (see :func:`one_run`).
    """

    def excess(epsilon: float) -> float:
        return p_value(right, guesses, canaries, epsilon, delta) - (1 - level)

    if excess(0.0) >= 0:
        epsilon = 0.0
    elif excess(MOST) < 0:
        epsilon = MOST
    else:
        epsilon = optimize.brentq(excess, 0.0, MOST, xtol=1e-6) - 1e-6
    return LowerBound(max(0.0, epsilon), delta, right, guesses, canaries, level)


def one_run(
    scores: ArrayLike,
    inserted: ArrayLike,
    delta: float,
    *,
    bound: Bound = lower_bound,
    level: float = LEVEL,
    shares: Sequence[float] = SHARES,
) -> LowerBound:
    """Audit by scores: algorithm 1. Half of the guesses say "in" where scores are highest, half "out" where lowest.

    How many canaries to guess about cannot be known beforehand. Each share in ``shares`` is tried at a level that pays
    for trying all of them (Bonferroni), and the best bound is kept.

    Args:
        scores: [m], higher where the auditor is surer that the canary was trained on.
        inserted: [m] bool, the coins.
        delta: in [0, 1).
        bound: from guesses to a bound: :func:`lower_bound`, or one of :mod:`labkit.canaries.tradeoff`.
        level: confidence.
        shares: of the m canaries, in (0, 1], fixed before the scores are seen.

    Raises:
        ValueError: shapes that differ, or NaN among the scores.
    """
    s, coins = np.asarray(scores, dtype=float), np.asarray(inserted, dtype=bool)
    if s.ndim != 1 or s.shape != coins.shape or len(s) < 2 or np.isnan(s).any():
        raise ValueError(
            f"scores {s.shape}, inserted {coins.shape}: need two of one length, at least 2, and no NaN among the scores"
        )
    order = np.argsort(-s, kind="stable")
    each = 1 - (1 - level) / len(shares)
    found = []
    for share in shares:
        half = max(1, int(share * len(s) / 2))
        right = int(coins[order[:half]].sum() + (~coins[order[-half:]]).sum())
        found.append(bound(right, 2 * half, len(s), delta, level=each))
    return replace(max(found, key=lambda one: one.epsilon), level=level)


def reach(canaries: int, delta: float, *, bound: Bound = lower_bound) -> float:
    """The most that :func:`one_run` can demonstrate with so many canaries: where the auditor knows every coin.

    A claim beyond it cannot be refuted. With delta > 0 more canaries may even show less: so many times as often may
    delta let one of them be told.
    """
    coins = np.arange(canaries) % 2 == 0
    return one_run(coins, coins, delta, bound=bound).epsilon
