"""(epsilon, delta) of DP-SGD: the subsampled Gaussian mechanism under Poisson sampling, composed.

The accountants are Opacus'. Neighbouring data sets differ by adding or removing one example.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

ACCOUNTANTS = {"prv": PRVAccountant, "rdp": RDPAccountant}


@cache
def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, accountant: str = "prv") -> float:
    """The epsilon proved for ``steps`` steps of DP-SGD.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping bound, positive.
        sample_rate: probability that an example enters a batch, in (0, 1].
        steps: number of steps, at least 0.
        delta: in (0, 1).
        accountant: ``prv`` (Gopi, Lee and Wutschitz 2021; an upper bound within 0.01) or ``rdp``
            (Mironov, Talwar and Zhang 2019; looser).

    Returns:
        epsilon, at least 0.

    Raises:
        ValueError: an argument out of range.
    """
    _check(sample_rate, steps, delta)
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant = {accountant!r}: known are {', '.join(ACCOUNTANTS)}")
    if not noise_multiplier > 0:
        raise ValueError(f"noise_multiplier = {noise_multiplier} must be positive: without noise there is no epsilon")
    if steps == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the RDP accountant's hint about its range of orders
        made = ACCOUNTANTS[accountant]()
        made.history = [(noise_multiplier, sample_rate, steps)]
        return float(made.get_epsilon(delta))


@cache
def noise_multiplier(epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """Noise whose proved epsilon, by PRV, is at most ``epsilon`` and less than 0.01 below it.

    Args:
        epsilon: the target, positive.
        sample_rate, steps, delta: as for :func:`epsilon`; at least one step.

    Raises:
        ValueError: an argument out of range, or a target that no noise multiplier up to 1e6 reaches.
    """
    _check(sample_rate, steps, delta)
    if not (math.isfinite(epsilon) and epsilon > 0) or steps == 0:
        raise ValueError(f"epsilon = {epsilon}, steps = {steps}: need a positive, finite target and at least one step")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="prv",
                epsilon_tolerance=min(0.01, epsilon / 20),
            )
        )


def _check(sample_rate: float, steps: int, delta: float) -> None:
    if not 0 < sample_rate <= 1:
        raise ValueError(f"sample_rate = {sample_rate} must lie in (0, 1]: expected batch size over number of examples")
    if steps < 0 or steps != int(steps):
        raise ValueError(f"steps = {steps} must be a whole number, at least 0")
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta} must lie in (0, 1), and below 1/n to mean anything")
