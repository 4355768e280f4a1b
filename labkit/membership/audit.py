"""The attacks by name, and each of them on every model of an ensemble."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from labkit.membership.learners import learned
from labkit.membership.likelihood import lira, lira_offline
from labkit.membership.rows import queries
from labkit.membership.shadows import calibrated, rmia
from labkit.membership.signals import correct, log_probability
from labkit.membership.turns import Audit, in_turn


def _correctness(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """Member where the target is right on the image itself: Yeom et al. (2018), section 3.2. Needs no shadows."""
    return correct(queries(logits)[target, :, 0], labels)


def _low_loss(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """The lower the target's loss on the image itself, the surer a member: Yeom et al. (2018), section 3.3."""
    return log_probability(queries(logits)[target, :, 0], labels)


Attack = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# By the name that rows carry; a new attack is one entry here.
ATTACKS: dict[str, Attack] = {
    "threshold": _correctness,
    "loss": _low_loss,
    "learned": learned,
    "calibrated": calibrated,
    "rmia": rmia,
    "lira_offline": lira_offline,
    "lira": lira,
}


# The one that speaks for all in verdicts: one for every regime and chapter, lest each figure be the best of several.
# With few shadow models it is the strongest (Zarifzadeh et al. 2024).
HEADLINE = "rmia"

# Attacks, in ATTACKS or by other scores, that look at the target alone.
SHADOWLESS = frozenset({"threshold", "loss", "distance"})


def audit(attack: str, logits: Tensor, labels: Tensor, members: Tensor, *, shadows: int | None = None) -> Audit:
    """Attack every model of an ensemble with the others as shadows (see :func:`in_turn`).

    Args:
        attack: a name in ``ATTACKS``.
        logits: [M, N, C] on the pool, or [M, N, Q, C] of Q queries of each image, the image itself first.
        labels: [N] int64.
        members: bool [M, N], M at least 4.
        shadows: a target; by default all others.
    """

    def score(rows: Tensor, target: int) -> Tensor:
        return ATTACKS[attack](logits[rows], labels, members[rows], target)

    return in_turn(attack, score, members, shadows=shadows)
