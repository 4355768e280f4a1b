"""The target's row and its shadows': what every shadow attack begins with."""

from __future__ import annotations

import torch
from torch import Tensor


def others(signal: Tensor, members: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The rows other than the target's, of a signal [M, N, ...] and of members [M, N]: [M-1, N, ...] and [M-1, N].

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, or no image that some shadows saw and others did
            not.
    """
    if members.dtype != torch.bool or members.ndim != 2 or signal.shape[:2] != members.shape:
        raise ValueError(
            f"logits are of {list(signal.shape[:2])} models and images, members is {members.dtype} "
            f"{list(members.shape)}; need bool [models, images] of the same size"
        )
    if not 0 <= target < len(members):
        raise ValueError(f"target = {target} is none of the {len(members)} models")
    if strange := int((~signal.isfinite()).reshape(*members.shape, -1).any(2).any(0).sum()):
        raise ValueError(f"{strange} images have scores that are not finite; look at the models' logits")
    chosen = torch.arange(len(members), device=signal.device) != target
    seen = members.to(signal.device)[chosen]
    if not comparable(seen).any():
        raise ValueError(
            f"no image is IN for some and OUT for others of the {len(seen)} shadows, so there is nothing to compare; "
            "train each model on its own random half (labkit.membership.halves), and more of them"
        )
    return signal[chosen], seen


def comparable(seen: Tensor) -> Tensor:
    """Which images [N] some shadows saw and others did not, of seen [K, N]."""
    return seen.any(0) & ~seen.all(0)


def queries(logits: Tensor) -> Tensor:
    """Logits of an image's queries, [M, N, Q, C], from those or from [M, N, C] of the image alone.

    Raises:
        ValueError: another number of axes.
    """
    if logits.ndim not in (3, 4):
        raise ValueError(f"logits are {list(logits.shape)}: need [models, images, (queries,) classes]")
    return logits if logits.ndim == 4 else logits[:, :, None]
