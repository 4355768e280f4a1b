"""A learned attacker: from what an image shows to whether it was a member, trained on the shadows.

Shokri et al. (2017), with the features that later attacks added: all logits, the norm of the image's own gradient
(Nasr, Shokri and Houmansadr 2019), and how its confidence rose over the epochs (Liu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit.membership.rows import others, queries
from labkit.membership.signals import features
from labkit.membership.turns import Audit, in_turn

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

ENOUGH = 20_000  # examples that an attacker learns from: it has tens of numbers to learn

Learner = Callable[[], "ClassifierMixin"]


def logistic() -> ClassifierMixin:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression  # scikit-learn takes a second to import: only where it learns
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def boosted() -> ClassifierMixin:
    """Gradient-boosted trees, which need no standardising and see interactions."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, random_state=0)


def learn(seen_by: Tensor, members: Tensor, target: int, *, learner: Learner = logistic) -> Tensor:
    """Train an attacker on the shadows' features, and ask it about the target's.

    Args:
        seen_by: [M, N, F], features of each image under each model.
        members: bool [M, N].
        target: the row that is attacked.
        learner: makes the attacker: :func:`logistic`, :func:`boosted`, or any classifier of scikit-learn with a
            ``decision_function``.

    Returns:
        [N] float64 log-odds of "member"; the attacker says so above 0.

    Raises:
        ValueError: shapes that do not fit, or no image at all that some shadows saw and others did not.
    """
    return _learn(seen_by, members, torch.arange(len(members)), target, learner)


def _learn(seen_by: Tensor, members: Tensor, rows: Tensor, target: int, learner: Learner) -> Tensor:
    """:func:`learn` on the models ``rows``, among which ``target`` counts; a copy of what they saw would be large."""
    _, seen = others(seen_by[rows, :, 0], members[rows], target)  # [K, N]
    shadows = rows[torch.arange(len(rows)) != target]  # [K]
    chosen = np.random.default_rng(target).permutation(seen.numel())[:ENOUGH]
    shadow, image = (torch.from_numpy(part) for part in np.divmod(chosen, seen.shape[1]))
    x = seen_by[shadows[shadow], image].numpy(force=True)  # [ENOUGH, F]
    attacker = learner().fit(x, seen[shadow, image].numpy(force=True))
    return torch.from_numpy(attacker.decision_function(seen_by[rows[target]].numpy(force=True)))


def learned(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """:func:`learn` by logistic regression from the features of ``FEATURES``, averaged over queries.

    Args:
        logits: [M, N, C] of all models on the pool, or [M, N, Q, C] of Q queries of each image.
        labels: [N] int64.
        members: bool [M, N]; target: the row that is attacked.
    """
    return learn(profile(logits, labels), members, target)


def profile(logits: Tensor, labels: Tensor) -> Tensor:
    """:func:`labkit.membership.features`, averaged over queries: [M, N, 5], of logits [M, N, C] or [M, N, Q, C]."""
    return features(queries(logits), labels[:, None]).mean(2)


def gains(sets: Mapping[str, Tensor], members: Tensor, *, learner: Learner = logistic) -> dict[str, Audit]:
    """What each set of features adds: audits of attackers that see the first set, the first two, and so on.

    Args:
        sets: by name, in order, [M, N] or [M, N, F] each; e.g. :func:`labkit.membership.features`,
            :func:`labkit.membership.full`, :func:`labkit.training.gradient_norms`, confidences [M, N, epochs].
        members: bool [M, N].
        learner: as for :func:`learn`.

    Returns:
        By the name of the set that came last; compare their AUCs.
    """
    columns = [part[..., None] if part.ndim == 2 else part for part in sets.values()]
    learner()  # imports what it needs: in_turn limits the threads of what is there
    found = {}
    for last, name in enumerate(sets, start=1):
        table = torch.cat([column.double() for column in columns[:last]], 2)  # [M, N, F]
        found[name] = in_turn("learned", partial(_learn, table, members, learner=learner), members)
    return found
