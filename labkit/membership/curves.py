"""The attacker's trade-off: ROC curves, what they say at low false-positive rates, what (epsilon, delta) allows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from labkit.intervals import clopper_pearson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Roc:
    """A membership attack's ROC curve; an attack says "member" where score >= threshold.

    Attributes:
        fpr, tpr: [K] rates, both rising from 0 to 1.
        thresholds: [K], falling from +inf.
        n_members, n_others: how many scores each rate is a fraction of.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats
    n_members: int
    n_others: int

    @property
    def auc(self) -> float:
        """Area under the curve: chance that a member outscores a non-member, ties counting half."""
        return float(np.trapezoid(self.tpr, self.fpr))

    @property
    def balanced_accuracy(self) -> float:
        """Best of (TPR + 1 - FPR) / 2 over all thresholds: an *oracle's* figure, chosen on the truth."""
        return float(((self.tpr + 1 - self.fpr) / 2).max())

    @property
    def best_threshold(self) -> float:
        """The threshold that reaches :attr:`balanced_accuracy`; use it on *other* models only."""
        return float(self.thresholds[np.argmax(self.tpr - self.fpr)])

    def tpr_at(self, fpr: float) -> float:
        """Highest true-positive rate at a false-positive rate of at most ``fpr``; no interpolation."""
        return float(self.tpr[self.fpr <= fpr].max())

    def tpr_interval(self, fpr: float) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of :meth:`tpr_at`, the threshold taken as given."""
        return clopper_pearson(round(self.tpr_at(fpr) * self.n_members), self.n_members)


def roc(scores: ArrayLike, members: ArrayLike) -> Roc:
    """The ROC curve of membership scores.

    Args:
        scores: [N], higher where the attacker is surer of "member"; infinities are allowed, NaN is not.
        members: [N] bool (or 0 and 1), the truth.

    Raises:
        ValueError: shapes that differ, NaN, or only one of the two kinds.
    """
    s, truth = _array(scores).astype(np.float64), _array(members)
    if s.ndim != 1 or s.shape != truth.shape:
        raise ValueError(f"scores {s.shape} and members {truth.shape} must be one-dimensional and equally long")
    if np.isnan(s).any():
        raise ValueError(
            f"{int(np.isnan(s).sum())} of {s.size} scores are NaN; a model with NaN logits cannot be scored"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("members must be True or False (or 1 and 0)")
    truth = truth.astype(bool)
    n_members, n_others = int(truth.sum()), int((~truth).sum())
    if n_members == 0 or n_others == 0:
        raise ValueError(f"{n_members} members and {n_others} others: a ROC curve needs both")
    order = np.argsort(-s, kind="stable")
    s, truth = s[order], truth[order]
    # Points of equal score are accepted together: a curve corner only where the score changes.
    last = np.append(s[1:] != s[:-1], True)
    tp = np.concatenate([[0], np.cumsum(truth)[last]])
    fp = np.concatenate([[0], np.cumsum(~truth)[last]])
    return Roc(fp / n_others, tp / n_members, np.concatenate([[np.inf], s[last]]), n_members, n_others)


def _array(values: ArrayLike) -> NDArray:
    """As numpy; a tensor may lie on a GPU."""
    if isinstance(values, Tensor):
        return (values.double() if values.is_floating_point() else values).numpy(force=True)
    return np.asarray(values)


def accuracy_at(threshold: float, scores: ArrayLike, members: ArrayLike) -> float:
    """Balanced accuracy of "member where score >= threshold", the threshold coming from elsewhere."""
    said = _array(scores) >= threshold
    truth = _array(members).astype(bool)
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def dp_region(fpr: ArrayLike, guarantees: Iterable[tuple[float, float]]) -> Floats:
    """Highest true-positive rate that differential privacy allows at each false-positive rate.

    Kairouz, Oh and Viswanath (2015), theorem 2.1: both ``tpr <= e^eps fpr + delta`` and
    ``1 - fpr <= e^eps (1 - tpr) + delta`` hold.

    Args:
        fpr: in [0, 1].
        guarantees: pairs (epsilon, delta) of one mechanism, one or more. An accountant proves an epsilon for every
            delta, and all of them hold: where rates are small, that of a small delta says little.
    """
    x = np.asarray(fpr, dtype=np.float64)
    most = np.ones_like(x)
    for epsilon, delta in guarantees:
        grow = math.exp(min(epsilon, 700.0))
        most = np.minimum(most, np.minimum(grow * x + delta, 1 - (1 - delta - x) / grow))
    return np.clip(most, 0, 1)
