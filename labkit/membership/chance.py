"""How small an effect could have been told from chance, and what a found one is worth where members are rare."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import optimize, stats

from labkit.intervals import LEVEL

POWER = 0.8  # how often the smallest effect would be found


@dataclass(frozen=True)
class Chance:
    """The smallest figures whose 95 % interval would, four times in five, exclude those of guessing.

    Attributes:
        auc: against 0.5.
        tpr: against ``guessing``.
        guessing: the TPR that guessing gives at an empirical threshold. :meth:`Roc.tpr_at` goes down to just above the
            first false alarm too many, so of k allowed ones among m it gives (k + 1) / (m + 1), not k / m.
        fpr: false-positive rate.
    """

    auc: float
    tpr: float
    guessing: float
    fpr: float


def smallest(targets: int, members: int, others: int, *, fpr: float, shared_shadows: bool = True) -> Chance:
    """What M targets and N images can tell from guessing: so that "0.50" can be read.

    Where nothing leaks, an AUC has variance (n + m + 1) / (12 n m) over the coins that made n members and m others
    (Mann and Whitney 1947), which effects so small change little; the variance of a TPR is taken as it is at the
    effect, on the ROC curve of two Gaussians. The mean over M targets is judged by a Student t interval, as
    :func:`labkit.measure.leakage` does.

    Args:
        targets: M, at least 3.
        members, others: images of each kind a target, on average.
        fpr: in (0, 1).
        shared_shadows: the targets are each other's shadows, which widens their interval by
            sqrt(2 (M - 1) / (M - 2)).

    Raises:
        ValueError: too few targets or images, or a rate out of range.
    """
    if targets < 3 or min(members, others) < 2 or not 0 < fpr < 1:
        raise ValueError(
            f"targets = {targets}, members = {members}, others = {others}, fpr = {fpr}: need 3 targets or more, 2 "
            "images or more of each kind, and a rate in (0, 1)"
        )
    wider = widening(targets, targets - 1 if shared_shadows else 0)
    # The interval's half width, and how far the mean must lie beyond it to clear it POWER of the time.
    clear = wider * (stats.t.ppf(0.5 + LEVEL / 2, targets - 1) + stats.norm.ppf(POWER)) / math.sqrt(targets)
    auc = 0.5 + clear * math.sqrt((members + others + 1) / (12 * members * others))
    guessing = (math.floor(fpr * others + 1e-9) + 1) / (others + 1)
    z = stats.norm.isf(guessing)

    def lack(tpr: float) -> float:
        shift = stats.norm.ppf(tpr) + z  # of two Gaussians whose ROC curve passes here
        slope = math.exp(shift * z - shift**2 / 2)  # of that curve, by which the threshold's error is magnified
        variance = tpr * (1 - tpr) / members + slope**2 * guessing * (1 - guessing) / others
        return tpr - guessing - clear * math.sqrt(variance)

    most = 1 - 1e-9
    tpr = optimize.brentq(lack, guessing, most) if lack(most) > 0 else 1.0
    return Chance(float(min(auc, 1.0)), float(tpr), guessing, fpr)


def widening(targets: int, shadows: int) -> float:
    """By what the plain standard error of a mean over M targets is too small where they are each other's shadows.

    Two targets that are each other's shadows meet twice, and their chance agreement has one part in k of what either
    scores: where nothing leaks, their errors correlate by 1 / k.

    Args:
        targets: M, at least 3.
        shadows: k of each, the next k in a circle; 0 where none are used.
    """
    both = max(0, 2 * shadows - targets + 1)  # partners of a target, each of which is the other's shadow
    r = both / (targets - 1) / max(shadows, 1)  # correlation of two targets, on average
    return math.sqrt((1 + (targets - 1) * r) / (1 - r))


def precision(tpr: float, fpr: float, prior: float) -> float:
    """Share of true members among those called so, where ``prior`` of the candidates are members (Jayaraman 2021).

    Args:
        tpr, fpr: rates of the attack, in [0, 1]; both 0 means that nobody is called a member, and gives NaN.
        prior: in [0, 1].
    """
    called = prior * tpr + (1 - prior) * fpr
    return prior * tpr / called if called else math.nan
