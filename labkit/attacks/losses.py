"""What an attack climbs: logits [N, C] and labels [N] to a loss a point [N], positive or large where it is broken.

The cross-entropy's gradient vanishes on points that the model is sure of; the margin and DLR losses depend on
differences of logits only, and DLR not on their scale either.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]  # (logits, labels) or (logits, labels, targets) -> [N]

TINY = 1e-12  # keeps quotients of equal logits finite


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit less the true one (Carlini and Wagner 2017, section V, f_6): positive where it is broken."""
    others = logits.scatter(1, labels[:, None], -math.inf)
    return others.max(1).values - _of(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, equation 5): the margin over first less third logit.

    Raises:
        ValueError: fewer than 3 classes.
    """
    _need(logits, 3, "dlr", 'loss="margin"')
    top = logits.topk(3).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The target's logit less the true one."""
    return _of(logits, targets) - _of(logits, labels)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR (Croce and Hein 2020, equation 6): over first logit less the mean of third and fourth.

    Raises:
        ValueError: fewer than 4 classes.
    """
    _need(logits, 4, "targeted DLR", "targeted_margin")
    top = logits.topk(4).values
    return targeted_margin(logits, labels, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


UNTARGETED: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def named(loss: str) -> Loss:
    """The untargeted loss of that name.

    Raises:
        ValueError: none has it.
    """
    if loss not in UNTARGETED:
        raise ValueError(f"loss = {loss!r} is unknown; there are {', '.join(UNTARGETED)}")
    return UNTARGETED[loss]


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _need(logits: Tensor, classes: int, loss: str, instead: str) -> None:
    if logits.shape[1] < classes:
        raise ValueError(f"{loss} needs {classes} classes, the model has {logits.shape[1]}; use {instead}")
