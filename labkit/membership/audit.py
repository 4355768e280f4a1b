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


@dataclass(frozen=True)
class Audit:
    """One attack on M targets.

    Attributes:
        attack: its name.
        scores: float64 [M, N], the row of each target.
        members: bool [M, N], the truth.
    """

    attack: str
    scores: Tensor
    members: Tensor

    @cached_property
    def rocs(self) -> list[Roc]:
        """A ROC curve a target."""
        return [roc(s.numpy(), m.numpy()) for s, m in zip(self.scores, self.members, strict=True)]

    @cached_property
    def accuracies(self) -> list[float]:
        """Balanced accuracy on each target, at the threshold that is typical (the median) of the *other* models."""
        best = [r.best_threshold for r in self.rocs]
        figures = []
        for target in range(len(self.scores)):
            others = [t for m, t in enumerate(best) if m != target]
            # The lower median is one of the thresholds themselves, finite even if another is not.
            threshold = sorted(others)[(len(others) - 1) // 2]
            figures.append(accuracy_at(threshold, self.scores[target].numpy(), self.members[target].numpy()))
        return figures


def audit(attack: str, logits: Tensor, labels: Tensor, members: Tensor) -> Audit:
    """Attack every model of an ensemble with the others as shadows.

    Args:
        attack: a name in ``ATTACKS``.
        logits: [M, N, C] on the pool.
        labels: [N] int64.
        members: bool [M, N].
    """
    scores = [ATTACKS[attack](logits, labels, members, target).double() for target in range(len(logits))]
    return Audit(attack, torch.stack(scores), members)
