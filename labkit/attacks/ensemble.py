"""AutoAttack, and the evaluation that it is one example of: several attacks, each on the points that still stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from labkit.attacks.autopgd import apgd, apgd_targeted
from labkit.attacks.balls import Ball, around
from labkit.attacks.boundary import fab_targeted
from labkit.attacks.losses import margin
from labkit.attacks.promises import check, judged, outputs
from labkit.attacks.random_search import square
from labkit.device import derive
from labkit.progress import Tick

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]  # (model, images, labels, eps) -> images

ROUNDING = 1e-6  # how far beyond ball and box an image may lie, in float32; farther in a coarser format


def standard(seed: int = 0) -> dict[str, Attack]:
    """The standard ensemble of Croce and Hein (2020), section 5, with their settings; in their order."""
    return {
        "apgd_ce": partial(apgd, steps=100, seed=derive(seed, "apgd_ce")),
        "apgd_t": partial(apgd_targeted, steps=100, targets=9, seed=derive(seed, "apgd_t")),
        "fab_t": partial(fab_targeted, steps=100, targets=9),
        "square": partial(square, queries=5000, seed=derive(seed, "square")),
    }


STANDARD: Mapping[str, Attack] = MappingProxyType(standard())


@dataclass(frozen=True)
class Evaluation:
    """What became of N points under several attacks, one after another.

    Attributes:
        images: [N, ...], the strongest image found of each: the one that broke it, or the one of highest margin loss.
        right: bool [N], what is classified right without an attack.
        fell: by attack, in their order: bool [N], the points that this attack broke and none before it.
    """

    images: Tensor
    right: Tensor
    fell: dict[str, Tensor]

    @property
    def stands(self) -> Tensor:
        """Which points survive everything: bool [N]."""
        return self.right & ~torch.stack([torch.zeros_like(self.right), *self.fell.values()]).any(0)

    @property
    def after(self) -> dict[str, Tensor]:
        """By attack: which points survive it and those before it, bool [N]."""
        stands, found = self.right, {}
        for name, fell in self.fell.items():
            found[name] = stands = stands & ~fell
        return found


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Mapping[str, Attack],
    eps: float,
    *,
    norm: str = "linf",
    tick: Tick = lambda images: None,
) -> Evaluation:
    """Attack the points that stand with one attack after another.

    What an attack returns is judged here: a point counts as broken if the model errs on that very image, which must lie
    in ball and box. It is judged in the precision of ``images``, which is float32 for figures to report.

    Args:
        model: images in [0, 1] to logits [N, C], C at least 2.
        images: [N, ...] in [0, 1], floating point.
        labels: [N] int64, the true classes.
        attacks: by name, in order: ``(model, images, labels, eps) -> images``, such as :data:`STANDARD`.
        eps: radius of the ball.
        norm: ``linf`` or ``l2``, the one that the attacks respect.
        tick: called with N after each attack.

    Raises:
        ValueError: as the attacks do; or an attack left the ball, the box, or the images' shape.
    """
    check(images, labels, eps, norm)
    images = images.detach()
    ball = around(images, eps, norm)
    if not len(images):
        none = labels.new_empty(0, dtype=torch.bool)
        return Evaluation(images.clone(), none, dict.fromkeys(attacks, none))
    right, highest = _judged(model, images, labels)
    stands, strongest, fell = right.clone(), images.clone(), {}
    for name, attack in attacks.items():
        rows = stands.nonzero()[:, 0]
        fell[name] = torch.zeros_like(stands)
        if len(rows):
            x = _honest(name, attack(model, images[rows], labels[rows], eps), ball[rows])
            stood, value = _judged(model, x, labels[rows])
            better = ~stood | (value > highest[rows])
            strongest[rows[better]] = x[better]
            highest[rows] = torch.maximum(highest[rows], value)
            fell[name][rows] = ~stood
            stands[rows] = stood
        tick(len(images))
    return Evaluation(strongest, right, fell)


def autoattack(model: nn.Module, images: Tensor, labels: Tensor, eps: float, *, seed: int = 0) -> Tensor:
    """AutoAttack: APGD-CE, APGD-T, FAB-T and Square, each on the points that the ones before left standing; l-infinity.

    Croce and Hein (2020), section 5. :func:`evaluate` with :func:`standard` says besides which point fell to which.

    Args:
        model: images in [0, 1] to logits [N, C], C at least 2 (below 4, APGD-T climbs the targeted margin).
        images: [N, ...] in [0, 1], floating point.
        labels: [N] int64, the true classes.
        eps: l-infinity radius in [0, 1].
        seed: determines all that is drawn.

    Returns:
        The strongest image found of each point, shaped as ``images``.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels that do not fit, eps out of range.
    """
    return evaluate(model, images, labels, standard(seed), eps).images


def _honest(name: str, found: Tensor, ball: Ball) -> Tensor:
    """What an attack found, in the precision of the images.

    Raises:
        ValueError: it left the ball, the box, or the images' shape.
    """
    images = ball.images
    if found.shape != images.shape:
        raise ValueError(f"{name} made {list(found.shape)} of images {list(images.shape)}: need the same shape")
    found = found.to(images)
    excess = max((ball.length(found - images) - ball.eps).max().item(), found.max().item() - 1, -found.min().item())
    if not excess <= max(ROUNDING, 4 * torch.finfo(images.dtype).eps * max(1.0, ball.eps)):  # also true for NaN
        raise ValueError(
            f"{name} went {excess:.3g} beyond the ball of radius {ball.eps} or the box [0, 1]; clip what it returns"
        )
    return found


def _judged(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which images are classified right, bool [N], and the margin loss, [N]."""
    logits = outputs(model, images)
    return judged(logits, labels), margin(logits, labels)
