"""A tighter bound from one run, on the whole trade-off curve: Mahloujifar, Melis and Chaudhuri (2024).

Flip one canary's coin: what was a right guess is now a wrong one, and a run with k right guesses one with k - 1. A
trade-off curve f bounds how much likelier the first may be than the second. Averaged over canaries, with p_i the
chance of i right guesses out of r on m canaries (theorem 9 there):

    sum_{i >= k} i/m p_i <= 1 - f( sum_{i >= k-1} (r - i)/m p_i )   for every k.

If v right guesses or more had probability tau, these would force ever more probability on smaller numbers; where that
comes to more than 1, tau is refuted (algorithm 3 there).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from scipy.special import ndtr, ndtri

from labkit.canaries.bound import MOST, LowerBound
from labkit.intervals import LEVEL
from labkit.training.accounting import gaussian_epsilon

# How improbable an event may be on one side, given its probability on the other: the inverse of 1 - f.
Least = Callable[[float], float]


def private(epsilon: float, delta: float, x: float) -> float:
    """(epsilon, delta)-privacy: Kairouz, Oh and Viswanath (2015), theorem 2.1."""
    return max(0.0, (x - delta) * math.exp(-epsilon), 1 - delta - (1 - x) * math.exp(epsilon))


def gaussian(mu: float, x: float) -> float:
    """mu-Gaussian privacy, that of telling N(0, 1) from N(mu, 1): Dong, Roth and Su (2022), definition 6."""
    return float(ndtr(ndtri(x) - mu))


def refuted(right: int, guesses: int, canaries: int, least: Least, *, level: float = LEVEL) -> bool:
    """Whether so many right guesses have probability below 1 - ``level`` under the trade-off curve.

    Args:
        right: v, in 0 .. r; guesses: r, in 0 .. m; canaries: m.
        least: the curve, e.g. ``partial(gaussian, 1.0)`` or ``partial(private, 8.0, 1e-5)``.
        level: confidence.
    """
    tau = 1 - level
    # Both in units of all guesses: sums from k upwards, of the right ones and of the wrong ones.
    hits, misses = tau * right / canaries, tau * (guesses - right) / canaries
    for k in range(right, 0, -1):
        more = max(misses, least(hits))
        hits += (k - 1) / (guesses - k + 1) * (more - misses)
        misses = more
        if hits + misses > guesses / canaries:
            return True
    return False


def curve_lower_bound(right: int, guesses: int, canaries: int, delta: float, *, level: float = LEVEL) -> LowerBound:
    """Largest epsilon at ``delta`` that the guesses refute with confidence ``level``; nothing else is assumed.

    Args are as for :func:`refuted`; the guesses must not have been chosen by their outcome.
    """
    epsilon = _largest(lambda e: refuted(right, guesses, canaries, partial(private, e, delta), level=level))
    return LowerBound(epsilon, delta, right, guesses, canaries, level)


def gaussian_lower_bound(right: int, guesses: int, canaries: int, delta: float, *, level: float = LEVEL) -> LowerBound:
    """The epsilon at ``delta`` of the most private Gaussian curve that the guesses do not refute.

    It assumes that the training's trade-off curve is a Gaussian one, as that of DP-SGD nearly is after many steps
    (Bu, Dong, Long and Su 2020); in return it needs far fewer canaries.

    Args are as for :func:`refuted`; the guesses must not have been chosen by their outcome.
    """
    mu = _largest(lambda mu: refuted(right, guesses, canaries, partial(gaussian, mu), level=level))
    return LowerBound(gaussian_epsilon(mu, delta), delta, right, guesses, canaries, level)


def _largest(refutes: Callable[[float], bool]) -> float:
    """Where ``refutes`` turns from true to false, between 0 and ``MOST``; from below."""
    low, high = 0.0, 1.0
    if not refutes(low):
        return 0.0
    while refutes(high):
        if high == MOST:
            return MOST
        low, high = high, min(2 * high, MOST)
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low
