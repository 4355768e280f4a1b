"""Attacks that calibrate by shadow models without a model of the scores: RMIA, and loss less difficulty.

All take the ensemble's ``logits[M, N, C]`` on the pool of N images (or ``[M, N, Q, C]`` of Q queries of each),
``members[M, N]`` (who was trained on what) and the row of the target; the other rows are its shadows. An image is IN
for the shadows that saw it and OUT for the others, which calibrates every image on its own. The target's own row of
``members`` is never read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.membership.rows import comparable, others
from labkit.membership.signals import probability


def rmia(logits: Tensor, labels: Tensor, members: Tensor, target: int, *, gamma: float = 1.0) -> Tensor:
    """Robust membership inference, online: Zarifzadeh, Liu and Shokri (2024), section 3.

    The image's likelihood ratio p(x | target) / p(x) is compared with those of the pool's images z, itself among them:
    the score is the fraction of z that x beats by ``gamma``, or is level with. p(x) is the mean over shadows, half of
    it from those that saw x and half from those that did not. Of several queries the probabilities are averaged.

    Args:
        logits: [M, N, C] of all models on the pool, or [M, N, Q, C] of Q queries of each image.
        labels: [N] int64.
        members: bool [M, N].
        target: the row that is attacked.
        gamma: at least 1; it raises the bar for all images alike, so it changes the ranking only by ties: far above 1,
            a model that hardly overfits ties all its images at 0.

    Returns:
        [N] float64 in [0, 1].

    Raises:
        ValueError: shapes that do not fit, gamma below 1, or no image at all that some shadows saw and others did not.
    """
    return outranked(probability(logits, labels), members, target, gamma=gamma)


def outranked(log_p: Tensor, members: Tensor, target: int, *, gamma: float = 1.0) -> Tensor:
    """:func:`rmia` from log-probabilities [M, N] of each image's class under each model; returns and errors are its."""
    if gamma < 1:
        raise ValueError(f"gamma = {gamma} must be at least 1")
    ratio = relative(log_p, members, target)
    bar = ratio - math.log(gamma)
    return torch.searchsorted(ratio.sort().values, bar, right=True).double() / len(ratio)


def relative(log_p: Tensor, members: Tensor, target: int) -> Tensor:
    """What :func:`rmia` ranks: log p(x | target) - log p(x), nats; for whoever wants to know by how much.

    Args:
        log_p: [M, N], log-probability of each image's class under each model.
        members, target: as for :func:`rmia`, and so are errors.

    Returns:
        [N] float64.
    """
    signal, seen = others(log_p.double(), members, target)
    # Each shadow's share of p(x): a half for all that are IN, a half for all that are OUT; else as many equal ones.
    inside, outside = seen.sum(0), (~seen).sum(0)  # [N]
    halves = torch.where(seen, 0.5 / inside, 0.5 / outside)
    share = torch.where(comparable(seen), halves, 1 / len(seen))  # [K, N]
    return log_p[target].double() - (signal + share.log()).logsumexp(0)


def calibrated(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """How much lower the target's loss is than that of models which did not see the image: Watson et al. (2022).

    A hard image has a high loss whether or not it was trained on; the mean over OUT shadows is its difficulty.

    Args and errors are as for :func:`rmia`.

    Returns:
        [N] float64, nats; 0 for an image without OUT shadows.
    """
    return easier(probability(logits, labels), members, target)


def easier(log_p: Tensor, members: Tensor, target: int) -> Tensor:
    """:func:`calibrated` from log-probabilities [M, N] of each image's class under each model; returns as it does."""
    log_p = log_p.double()
    signal, seen = others(log_p, members, target)
    difficulty = (signal * ~seen).sum(0) / (~seen).sum(0).clamp(min=1)  # [N]
    return torch.where((~seen).any(0), log_p[target] - difficulty, 0.0)
