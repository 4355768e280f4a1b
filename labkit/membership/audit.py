"""The attacks by name, and each of them on every model of an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from labkit.membership.learners import learn, profile
from labkit.membership.likelihood import likelihood_ratio, surprise
from labkit.membership.rows import queries
from labkit.membership.shadows import easier, outranked
from labkit.membership.signals import correct, log_probability, odds, probability
from labkit.membership.turns import Audit, in_turn


@dataclass(frozen=True)
class Attack:
    """An attack in two halves, of which the first needs to be done once for all targets.

    Attributes:
        signal: ``(logits, labels) -> [M, N, ...]``: what it looks at, of logits [M, N, C] or [M, N, Q, C].
        score: ``(signal, members, target) -> [N]``: the attack on one row, the others being its shadows.
    """

    signal: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor, int], Tensor]

    def __call__(self, logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
        """Scores [N] of the pool under one target."""
        return self.score(self.signal(logits, labels), members, target)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the answer to the image itself is right: [M, N]."""
    return correct(queries(logits)[:, :, 0], labels)


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the true class, of the image itself: [M, N] nats."""
    return log_probability(queries(logits)[:, :, 0], labels)


def _own(signal: Tensor, members: Tensor, target: int) -> Tensor:
    """The target's own row, [N]: an attack that needs no shadows."""
    return signal[target]


# By the name that rows carry; a new attack is one entry here. The first two look at the target's answer to the image
# itself: whether it is right, and how low its loss is (Yeom et al. 2018, sections 3.2 and 3.3).
ATTACKS: dict[str, Attack] = {
    "threshold": Attack(_right, _own),
    "loss": Attack(_confidence, _own),
    "learned": Attack(profile, learn),
    "calibrated": Attack(probability, easier),
    "rmia": Attack(probability, outranked),
    "lira_offline": Attack(odds, surprise),
    "lira": Attack(odds, likelihood_ratio),
}


# The one that speaks for all in verdicts: one for every regime and chapter, lest each figure be the best of several.
# With few shadow models it is the strongest (Zarifzadeh et al. 2024).
HEADLINE = "rmia"

# Attacks, in ATTACKS or by other scores, that look at the target alone.
SHADOWLESS = frozenset({"threshold", "loss", "steadiness", "distance"})


def audit(attack: str, logits: Tensor, labels: Tensor, members: Tensor, *, shadows: int | None = None) -> Audit:
    """Attack every model of an ensemble with the others as shadows (see :func:`in_turn`).

    Args:
        attack: a name in ``ATTACKS``.
        logits: [M, N, C] on the pool, or [M, N, Q, C] of Q queries of each image, the image itself first; on the device
            that is to compute.
        labels: [N] int64, there too.
        members: bool [M, N], M at least 4.
        shadows: a target; by default all others.
    """

    signal, score = ATTACKS[attack].signal(logits, labels), ATTACKS[attack].score

    def of_rows(rows: Tensor, target: int) -> Tensor:
        return score(signal[rows], members[rows], target)

    return in_turn(attack, of_rows, members, shadows=shadows)
