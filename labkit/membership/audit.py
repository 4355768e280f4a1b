"""Every model of an ensemble attacked in turn, the others being its shadows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from labkit.membership.curves import Roc, accuracy_at, roc
from labkit.membership.shadows import learned, lira, rmia
from labkit.membership.signals import correct, features


def _correctness(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """Member where the target is right: Yeom et al. (2018), section 3.2. Needs no shadows."""
    return correct(logits[target], labels)


def _low_loss(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """The lower the target's loss, the surer a member: Yeom et al. (2018), section 3.3."""
    return -features(logits[target], labels)[..., 0]


Attack = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# By the name that rows carry; a new attack is one entry here.
ATTACKS: dict[str, Attack] = {
    "threshold": _correctness,
    "loss": _low_loss,
    "learned": learned,
    "rmia": rmia,
    "lira": lira,
}


SHADOWLESS = frozenset({"threshold", "loss"})


@dataclass(frozen=True)
class Audit:
    """One attack on M targets.

    Attributes:
        attack: its name.
        scores: float64 [M, N], the row of each target.
        members: bool [M, N], the truth.
        thresholds: M, for each target the one that is best on a model of the attacker's own (see :func:`audit`).
    """

    attack: str
    scores: Tensor
    members: Tensor
    thresholds: list[float]

    @cached_property
    def rocs(self) -> list[Roc]:
        """A ROC curve a target."""
        return [roc(s, m) for s, m in zip(self.scores, self.members, strict=True)]

    @cached_property
    def accuracies(self) -> list[float]:
        """Balanced accuracy on each target, at its threshold."""
        return [accuracy_at(*each) for each in zip(self.thresholds, self.scores, self.members, strict=True)]


def audit(attack: str, logits: Tensor, labels: Tensor, members: Tensor) -> Audit:
    """Attack every model of an ensemble with the others as shadows.

    A target's own members serve one thing only, to score the attack. So its threshold is the best one on another
    model, the next in line, which is attacked with the shadows that are left: without the target.

    Args:
        attack: a name in ``ATTACKS``.
        logits: [M, N, C] on the pool.
        labels: [N] int64.
        members: bool [M, N], M at least 4.
    """
    models = torch.arange(len(logits))
    scores, thresholds = [], []
    for target in models.tolist():
        scores.append(ATTACKS[attack](logits, labels, members, target).double())
        rest = models[models != target].roll(-target)  # the next model comes first
        own = ATTACKS[attack](logits[rest], labels, members[rest], 0)
        thresholds.append(roc(own, members[rest[0]]).best_threshold)
    return Audit(attack, torch.stack(scores), members, thresholds)
