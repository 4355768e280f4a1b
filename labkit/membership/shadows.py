"""Attacks that learn from shadow models: LiRA, RMIA and a learned attacker.

All take the ensemble's ``logits[M, N, C]`` on the pool of N images, ``members[M, N]`` (who was trained on what)
and the row of the target; the other rows are its shadows. An image is IN for the shadows that saw it and OUT
for the others, which calibrates every image on its own. The target's own row of ``members`` is never read.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from labkit.membership.signals import features, log_odds

ENOUGH = 200_000  # examples for the learned attacker: it has six numbers to learn


def lira(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """Likelihood-ratio attack, online: Carlini et al. (2022), algorithm 1.

    The log-odds of an image under models that saw it, and under models that did not, are modelled as two
    Gaussians with means of their own. With fewer than 64 shadows on a side the variances are shared by all
    images (section VI-B: "fixed variance"), one for IN and one for OUT; with 64 or more each image has its own.

    Args:
        logits: [M, N, C] of all models on the pool.
        labels: [N] int64.
        members: [M, N] bool.
        target: the row that is attacked.

    Returns:
        [N] float64 log-likelihood ratios; above 0 speaks for "member". 0, no evidence, for an image that all or
        none of the shadows saw.

    Raises:
        ValueError: shapes that do not fit, or no image at all that some shadows saw and others did not.
    """
    signal, seen = _shadows(log_odds(logits, labels), members, target)  # [M-1, N] each
    own = log_odds(logits[target], labels)  # [N]
    inside = _log_density(own, signal, seen)
    outside = _log_density(own, signal, ~seen)
    return torch.where(_comparable(seen), inside - outside, 0.0)


def _log_density(own: Tensor, signal: Tensor, mask: Tensor) -> Tensor:
    """Gaussian log-density [N] of ``own`` [N] under the masked entries of ``signal`` [K, N], less a constant."""
    count = mask.sum(0)  # [N]
    mean = (signal * mask).sum(0) / count.clamp(min=1)  # [N]
    squares = ((signal - mean).square() * mask).sum(0)  # [N]
    # Each image's mean has taken one degree of freedom.
    freedom = (count - 1).clamp(min=0)
    variance = squares / freedom if count.min() >= 64 else squares.sum() / freedom.sum().clamp(min=1)
    std = variance.sqrt().clamp(min=1e-6)
    return -0.5 * ((own - mean) / std).square() - std.log()


def rmia(logits: Tensor, labels: Tensor, members: Tensor, target: int, *, gamma: float = 1.0) -> Tensor:
    """Robust membership inference, online: Zarifzadeh, Liu and Shokri (2024), section 3.

    The image's likelihood ratio p(x | target) / p(x) is compared with those of the pool's other images z:
    the score is the fraction of z that x beats by ``gamma``. p(x) is the mean over shadows, half of it from
    those that saw x and half from those that did not.

    Args and errors are as for :func:`lira`. ``gamma`` is at least 1; it raises the bar for all images alike, so it
    changes the ranking only by ties: far above 1, a model that hardly overfits ties all its images at 0.

    Returns:
        [N] float64 in [0, 1].
    """
    if gamma < 1:
        raise ValueError(f"gamma = {gamma} must be at least 1")
    log_p = -features(logits, labels)[..., 0]  # [M, N] log-probability of the true class
    signal, seen = _shadows(log_p, members, target)
    p = signal.exp()
    inside = (p * seen).sum(0) / seen.sum(0)  # [N], NaN where no shadow is IN
    outside = (p * ~seen).sum(0) / (~seen).sum(0)  # [N]
    prior = torch.where(_comparable(seen), (inside + outside) / 2, p.mean(0))
    ratio = log_p[target] - prior.clamp(min=1e-300).log()  # [N]
    ranked = ratio.sort().values
    bar = ratio - torch.tensor(gamma, dtype=ratio.dtype).log()
    return torch.searchsorted(ranked, bar, right=True).double() / len(ranked)


def learned(logits: Tensor, labels: Tensor, members: Tensor, target: int) -> Tensor:
    """Logistic regression from an image's features to membership, trained on the shadows: Shokri et al. (2017).

    Args and errors are as for :func:`lira`.

    Returns:
        [N] float64 log-odds of "member"; the attacker says so above 0.
    """
    seen_features, seen = _shadows(features(logits, labels), members, target)  # [M-1, N, F], [M-1, N]
    attacker = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    x, y = seen_features.flatten(0, 1).numpy(force=True), seen.flatten().numpy(force=True)
    chosen = np.random.default_rng(target).permutation(len(y))[:ENOUGH]
    attacker.fit(x[chosen], y[chosen])
    return torch.from_numpy(attacker.decision_function(features(logits[target], labels).numpy(force=True)))


def _shadows(signal: Tensor, members: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The rows other than the target's, of a signal [M, N, ...] and of members [M, N]; checked."""
    if members.dtype != torch.bool or members.ndim != 2 or signal.shape[:2] != members.shape:
        raise ValueError(
            f"logits are of {list(signal.shape[:2])} models and images, members is {members.dtype} "
            f"{list(members.shape)}; need bool [models, images] of the same size"
        )
    if not 0 <= target < len(members):
        raise ValueError(f"target = {target} is none of the {len(members)} models")
    others = torch.arange(len(members), device=signal.device) != target
    seen = members.to(signal.device)[others]
    if not _comparable(seen).any():
        raise ValueError(
            f"no image is IN for some and OUT for others of the {len(seen)} shadows, so there is nothing to compare; "
            "train each model on its own random half (labkit.membership.halves), and more of them"
        )
    return signal[others], seen


def _comparable(seen: Tensor) -> Tensor:
    """Which images [N] some shadows saw and others did not, of seen [K, N]."""
    return seen.any(0) & ~seen.all(0)
