"""(epsilon, delta) of DP-SGD: the subsampled Gaussian mechanism under Poisson sampling, composed.

Two accountants prove, PRV and RDP, and are Opacus'; the third, the Gaussian limit of many steps, is an approximation
and may fall below what is true. Neighbouring data sets differ by adding or removing one example.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from itertools import count

from scipy import optimize
from scipy.special import log_ndtr

MOST_NOISE, TINY = 1e6, 1e-12
ACCOUNTANTS = ("prv", "rdp")


@cache
def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, accountant: str = "prv") -> float:
    """The epsilon proved for ``steps`` steps of DP-SGD.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping bound, positive.
        sample_rate: probability that an example enters a batch, in (0, 1].
        steps: number of steps, at least 0.
        delta: in (0, 1).
        accountant: ``prv`` (Gopi, Lee and Wutschitz 2021; an upper bound, by 0.01 to 0.02; exact where nothing is
            sampled, as Gaussian mechanisms) or ``rdp`` (Mironov, Talwar and Zhang 2019; looser).

    Returns:
        epsilon, at least 0; 0 where an example is ever drawn with probability ``delta`` at most.

    Raises:
        ValueError: an argument out of range, or so little noise that the accountant does not cope.
    """
    return composed(((noise_multiplier, sample_rate, steps),), delta, accountant=accountant)


@cache
def composed(parts: tuple[tuple[float, float, int], ...], delta: float, *, accountant: str = "prv") -> float:
    """The epsilon proved for several mechanisms on the same data: a mean that is released first, then DP-SGD.

    Args:
        parts: (noise multiplier, sample rate, steps) of each, as for :func:`epsilon`.
        delta, accountant: as for :func:`epsilon`.

    Raises:
        ValueError: an argument out of range.
    """
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant = {accountant!r}: known are {', '.join(ACCOUNTANTS)}")
    for sigma, sample_rate, steps in parts:
        _check(sample_rate, steps, delta)
        _check_noise(sigma)
    history = [part for part in parts if part[2] > 0]
    if sum(rate * steps for _, rate, steps in history) <= delta:
        return 0.0
    if accountant == "prv" and all(rate == 1 for _, rate, _ in history):
        return gaussian_epsilon(math.sqrt(sum(steps / sigma**2 for sigma, _, steps in history)), delta)
    from opacus.accountants import create_accountant  # takes longer to import than all of labkit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the RDP accountant's hint about its range of orders
        made = create_accountant(accountant)
        made.history = history
        try:
            found = float(made.get_epsilon(delta))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{accountant} finds no epsilon for (noise, rate, steps) = {history} at delta = {delta:g} ({error}); "
                "take more noise, fewer steps or another delta"
            ) from error
    return max(0.0, found)


@cache
def noise_multiplier(epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """Noise whose proved epsilon, by PRV, is at most ``epsilon``; so little as :func:`noise_beside` finds.

    Args:
        epsilon: the target, positive.
        sample_rate, steps, delta: as for :func:`epsilon`; at least one step.

    Raises:
        ValueError: an argument out of range, or a target that no noise multiplier up to 1e6 reaches.
    """
    return noise_beside(epsilon, sample_rate, steps, delta, ())


@cache
def noise_beside(
    epsilon: float, sample_rate: float, steps: int, delta: float, beside: tuple[tuple[float, float, int], ...]
) -> float:
    """Noise for DP-SGD which, together with the mechanisms ``beside``, costs at most ``epsilon`` by PRV.

    Args:
        epsilon, sample_rate, steps, delta: as for :func:`noise_multiplier`.
        beside: as for :func:`composed`.

    Returns:
        so little that what it costs is below ``epsilon`` by less than 0.01 and 0.5 %; where epsilon jumps over that (it
        does where delta is as likely as an example's ever being drawn), within 0.01 % of the least that keeps below.

    Raises:
        ValueError: an argument out of range, mechanisms that cost as much as ``epsilon`` by themselves, or a target
            that no noise multiplier up to 1e6 reaches.
    """
    _check(sample_rate, steps, delta)
    if not (math.isfinite(epsilon) and epsilon > 0) or steps == 0:
        raise ValueError(f"epsilon = {epsilon}, steps = {steps}: need a positive, finite target and at least one step")
    if sample_rate * steps <= delta:
        raise ValueError(
            f"sample_rate * steps = {sample_rate * steps:.3g} is no more than delta = {delta:g}, which allows an "
            "example so rarely drawn to be shown as it is: no noise is called for; take a smaller delta"
        )
    if beside and composed(beside, delta) >= epsilon:
        raise ValueError(f"{beside} cost epsilon = {composed(beside, delta):.3f} alone: nothing is left of {epsilon}")
    slack = min(0.01, epsilon / 200)
    aim, noise = epsilon - slack / 2, limit_noise(epsilon, sample_rate, steps, delta)
    # Secant steps in logarithms, where epsilon and noise are nearly on a line; bisection takes four times as many.
    low, high, slope, step, before = 0.0, math.inf, -1.2, 0.0, None
    for tries in count():
        if noise > MOST_NOISE:
            break
        spent = composed(((noise, sample_rate, steps), *beside), delta)
        low, high = (noise, high) if spent > epsilon else (low, noise)
        if 0 <= epsilon - spent < slack or high - low < 1e-4 * high:
            return high
        gap = math.log(max(spent, TINY) / aim)
        if before is not None:
            slope = min(-0.01, (gap - before) / step)
        step = max(-1.0, min(-gap / slope, 1.0))
        if low > 0 and high < math.inf and (tries > 9 or not low < noise * math.exp(step) < high):
            step = math.log(low * high) / 2 - math.log(noise)  # what is no line is halved
        before, noise = gap, noise * math.exp(step)
    raise ValueError(
        f"epsilon = {epsilon} is out of reach: noise multipliers up to {MOST_NOISE:g} cost more by the PRV accountant, "
        "which says 0.01 at least where batches are sampled"
    )


def limit_mu(noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """The mu of the Gaussian privacy that DP-SGD tends to: q sqrt(T (e^(1 / sigma^2) - 1)).

    Bu, Dong, Long and Su (2020), theorem 5. The limit is that of many steps with q sqrt(T) fixed. Without sampling no
    limit is needed: sqrt(T) / sigma.

    Args:
        noise_multiplier, sample_rate, steps: as for :func:`epsilon`.

    Returns:
        mu; infinite where there is too little noise for a float.
    """
    _check(sample_rate, steps, 0.5)
    _check_noise(noise_multiplier)
    if sample_rate == 1:
        return math.sqrt(steps) / noise_multiplier
    try:
        return sample_rate * math.sqrt(steps * math.expm1(noise_multiplier**-2))
    except OverflowError:
        return math.inf


def limit_noise(epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """The noise multiplier at which the Gaussian limit of many steps is ``epsilon``: where to look for the true one."""
    wide = 1.0
    while gaussian_epsilon(wide, delta) < epsilon:
        wide *= 2
    mu = float(optimize.brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 0.0, wide))
    if sample_rate == 1:
        return math.sqrt(steps) / mu
    return math.log1p((mu / sample_rate) ** 2 / steps) ** -0.5


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of mu-Gaussian privacy: Dong, Roth and Su (2022), corollary 1; Balle and Wang (2018), theorem 8.

    Args:
        mu: at least 0: as hard to tell as N(0, 1) from N(mu, 1); infinite where nothing is hidden.
        delta: in (0, 1).
    """
    if not mu >= 0 or not 0 < delta < 1:
        raise ValueError(f"mu = {mu}, delta = {delta}: need a mu of at least 0, and delta in (0, 1)")
    if mu == math.inf:
        return math.inf

    def excess(e: float) -> float:
        """delta(e), less the one that is asked for; in logarithms, which do not overflow."""
        return math.exp(log_ndtr(mu / 2 - e / mu)) - math.exp(e + log_ndtr(-mu / 2 - e / mu)) - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1  # a tail bound: delta(high) is below delta
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9))


def shuffled_epsilon(noise_multiplier: float, epochs: int, delta: float) -> float:
    """What shuffled batches prove without any gain from sampling: each example enters one batch an epoch, for certain.

    Its batches are disjoint, so a pass over the data is one Gaussian mechanism of sensitivity ``clip`` (parallel
    composition), and E passes are E of them: mu = sqrt(E) / sigma. The accountants' figure for Poisson sampling is
    far lower, and it is not proved for shuffled batches: Chua et al. (2024) show runs where shuffling leaks more than
    it. The truth lies between the two. A neighbour's missing example leaves a gap in its batch; the other batches
    stay as they are.

    Args:
        noise_multiplier: as for :func:`epsilon`; epochs: E, passes over the data; delta: in (0, 1).
    """
    _check_noise(noise_multiplier)
    return gaussian_epsilon(math.sqrt(epochs) / noise_multiplier, delta)


def every_account(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> dict[str, float]:
    """The epsilon of one run by every way of accounting, by name.

    Returns:
        ``rdp`` and ``prv`` (proved), ``gaussian limit`` (approximate), and ``shuffled``: what would be proved had the
        batches been shuffled, as many passes as were expected.
    """
    return {
        "rdp": epsilon(noise_multiplier, sample_rate, steps, delta, accountant="rdp"),
        "prv": epsilon(noise_multiplier, sample_rate, steps, delta),
        "gaussian limit": gaussian_epsilon(limit_mu(noise_multiplier, sample_rate, steps), delta),
        "shuffled": shuffled_epsilon(noise_multiplier, max(1, round(steps * sample_rate)), delta),
    }


def _check_noise(noise_multiplier: float) -> None:
    if not 0 < noise_multiplier < math.inf:
        raise ValueError(
            f"noise_multiplier = {noise_multiplier} must be positive and finite: without noise there is no epsilon"
        )


def _check(sample_rate: float, steps: int, delta: float) -> None:
    if not 0 < sample_rate <= 1:
        raise ValueError(f"sample_rate = {sample_rate} must lie in (0, 1]: expected batch size over number of examples")
    if steps < 0 or steps != int(steps):
        raise ValueError(f"steps = {steps} must be a whole number, at least 0")
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta} must lie in (0, 1), and below 1/n to mean anything")
