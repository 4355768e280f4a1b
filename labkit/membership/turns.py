"""Every model of an ensemble attacked in turn, the others being its shadows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from labkit.membership.curves import Roc, accuracy_at, roc
from labkit.workers import share


@dataclass(frozen=True)
class Audit:
    """One attack on M targets.

    Attributes:
        attack: its name.
        scores: float64 [M, N], the row of each target.
        members: bool [M, N], the truth.
        thresholds: M, for each target the one that is best on a model of the attacker's own (see :func:`in_turn`).
        shadows: how many of the others each target is attacked with.
    """

    attack: str
    scores: Tensor
    members: Tensor
    thresholds: list[float]
    shadows: int

    @cached_property
    def rocs(self) -> list[Roc]:
        """A ROC curve a target."""
        return [roc(s, m) for s, m in zip(self.scores, self.members, strict=True)]

    @property
    def graded(self) -> bool:
        """Whether there is a threshold to move: some target has scores of more than two values."""
        return any(len(curve.fpr) > 3 for curve in self.rocs)

    @cached_property
    def accuracies(self) -> list[float]:
        """Balanced accuracy on each target, at its threshold."""
        return [accuracy_at(*each) for each in zip(self.thresholds, self.scores, self.members, strict=True)]


def in_turn(
    attack: str, score: Callable[[Tensor, int], Tensor], members: Tensor, *, shadows: int | None = None
) -> Audit:
    """Attack every model of an ensemble with the others, or the next few of them, as shadows.

    A target's own members serve one thing only, to score the attack. So its threshold is the best one on another
    model, the next in line, which is attacked with the shadows that are left: without the target.

    Args:
        attack: its name.
        score: ``(rows, target) -> [N]``: the attack on the model ``rows[target]``, its shadows being the other rows; on
            any device, and in several threads at once.
        members: bool [M, N], M at least 4.
        shadows: a target, 3 to M - 1; by default all others.

    Raises:
        ValueError: too few models or shadows, or more shadows than there are.
    """
    count = len(members) - 1 if shadows is None else shadows
    if not 3 <= count < len(members):
        raise ValueError(f"{count} shadows of {len(members)} models: need 3 at least, and a model that is none of them")

    pools = ThreadpoolController()  # targets have a core each: libraries must not start threads of their own

    def one(target: int) -> tuple[Tensor, float]:
        rows = torch.arange(target, target + count + 1) % len(members)  # the target, and the models after it
        rest = rows[1:]
        with pools.limit(limits=1, user_api="openmp"):  # of this thread
            return score(rows, 0).double().cpu(), roc(score(rest, 0), members[rest[0]]).best_threshold

    with pools.limit(limits=1, user_api="blas"):  # of all threads
        # Whatever computes the scores, sorting them and learning from them is a core's work.
        scores, thresholds = zip(*share(one, range(len(members)), torch.device("cpu")), strict=True)
    return Audit(attack, torch.stack(scores), members, list(thresholds), count)


def exposure(audit: Audit) -> Tensor:
    """Who is exposed: how far an image's scores as a member lie above those as none, over the targets.

    Returns:
        [N] float64, in standard deviations of a score about its image's two means, one figure for the whole pool;
        NaN for an image that was never a member, or always.
    """
    inside = audit.members.to(audit.scores.device)
    n_in, n_out = inside.sum(0), (~inside).sum(0)  # [N]
    mean_in = (audit.scores * inside).sum(0) / n_in
    mean_out = (audit.scores * ~inside).sum(0) / n_out
    centred = audit.scores - torch.where(inside, mean_in.nan_to_num(), mean_out.nan_to_num())
    spread = (centred.square().sum() / (centred.numel() - 2 * len(mean_in))).sqrt()
    return (mean_in - mean_out) / spread
