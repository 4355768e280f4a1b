"""Auto-PGD (Croce and Hein 2020, algorithm 1): a momentum step, and a step size that halves where progress stalls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from labkit.attacks.ascent import slope
from labkit.attacks.balls import Ball, around
from labkit.attacks.losses import Loss, named, targeted_dlr, targeted_margin
from labkit.attacks.points import Points, in_pieces, strongest, waves, where
from labkit.attacks.promises import check, check_counts, correct, eval_mode, hits, outputs, rivals

MOMENTUM = 0.75  # alpha: how much of a step is new
RHO = 0.75  # share of steps that must raise the loss, or the step size is halved


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 100,
    loss: str = "ce",
    norm: str = "linf",
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on one loss; a point leaves as soon as an iterate breaks it.

    Croce and Hein (2020), algorithm 1.

    Args:
        model: images in [0, 1] to logits [N, C], C at least 2.
        images: [N, ...] in [0, 1], floating point.
        labels: [N] int64, the true classes.
        eps: radius of the ball, on pixels in [0, 1].
        steps: gradient steps a restart, at least 1.
        loss: ``ce``, ``margin``, or ``dlr`` (C at least 3).
        norm: ``linf`` or ``l2``.
        restarts: independent random starts, at least 1.
        seed: determines the starts, whatever the chunking.

    Returns:
        Images shaped as ``images``: the first iterate that broke the point, or the one of highest loss. A point that
        is misclassified anyway keeps its image.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels that do not fit, a setting out of range or unknown.
    """
    _check(images, labels, eps, norm, steps=steps, restarts=restarts)
    images = images.detach()
    ball, draw = around(images, eps, norm), torch.Generator(device=images.device).manual_seed(seed)
    runs = ((ball.start(draw), labels[:, None]) for _ in range(restarts))
    return _search(model, images, labels, ball, restarts, runs, named(loss), steps)


def apgd_targeted(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 100,
    targets: int = 9,
    norm: str = "linf",
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on the targeted DLR loss, towards each of the classes nearest to winning on the clean image.

    Croce and Hein (2020), section 4. With fewer than 4 classes, where targeted DLR is not defined, the loss is the
    targeted margin.

    Args:
        model, images, labels, eps, steps, norm, seed: as for :func:`apgd`.
        targets: classes tried, the nearest first; C - 1 where there are fewer.

    Returns, Raises: as for :func:`apgd`.
    """
    _check(images, labels, eps, norm, steps=steps, targets=targets)
    images = images.detach()
    if not len(images):
        return images.clone()
    ball, draw = around(images, eps, norm), torch.Generator(device=images.device).manual_seed(seed)
    wrong = rivals(model, images, labels, targets)  # [N, k]
    runs = ((ball.start(draw), torch.stack([labels, target], 1)) for target in wrong.unbind(1))
    loss = targeted_dlr if outputs(model, images[:1]).shape[1] >= 4 else targeted_margin
    return _search(model, images, labels, ball, wrong.shape[1], runs, loss, steps)


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step size may be halved: at 22 % of all, then ever closer, down to 6 % apart.

    Croce and Hein (2020), section 3.1; reckoned in whole per cent, so that no rounding moves one.
    """
    found, at, gap = [], 0, 22
    while at + gap <= 100:
        at += gap
        found.append(-(-at * steps // 100))
        gap = max(gap - 3, 6)
    return found


def _search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ball: Ball,
    count: int,
    runs: Iterator[tuple[Tensor, Tensor]],
    loss: Loss,
    steps: int,
) -> Tensor:
    """The strongest image that ``count`` runs find; a run is a start [N, ...] and the classes [N, k] of its loss."""
    found, stands = images.clone(), correct(model, images, labels)
    highest = torch.full(labels.shape, -torch.inf, device=images.device)

    def climb(rows: Tensor, start: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _climb(model, labels[rows], ball[rows], start, classes, loss, steps)

    with eval_mode(model):
        for wave, standing in waves(count, stands):
            drawn = [[of[standing] for of in next(runs)] for _ in wave]
            start, classes = (torch.cat(parts) for parts in zip(*drawn, strict=True))
            x, value, stood = in_pieces(climb, standing.repeat(len(wave)), start, classes)
            value, x, stood = strongest(len(wave), torch.where(stood, value, torch.inf), x, stood)
            better = value > highest[standing]
            found[standing[better]] = x[better]
            highest[standing] = torch.maximum(highest[standing], value)
            stands[standing] = stood
    return found


@dataclass
class _Climb(Points):
    """Where the points of a piece are. In the paper's words: x is x(k), top is x_max, size is eta."""

    labels: Tensor  # [n]
    classes: Tensor  # [n, k], what the loss is told besides the logits
    ball: Ball
    x: Tensor
    before: Tensor  # x(k - 1)
    value: Tensor  # [n], f(x)
    gradient: Tensor
    top: Tensor
    top_value: Tensor
    top_gradient: Tensor
    size: Tensor  # [n, 1, ...]
    rises: Tensor  # [n], steps since the last checkpoint that raised the loss
    halved: Tensor  # bool [n], at the last checkpoint
    top_then: Tensor  # [n], f_max at the last checkpoint


def _climb(
    model: nn.Module, labels: Tensor, ball: Ball, start: Tensor, classes: Tensor, loss: Loss, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One run on a piece: the image that broke a point or that of highest loss; highest loss [n]; bool [n], stands."""
    logits, value, gradient = slope(model, start, partial(_told, loss, classes))
    found, highest, stood = start.clone(), value.float(), hits(logits, labels)
    of = _Climb(
        row=torch.arange(len(start), device=start.device),
        stands=stood.clone(),
        labels=labels,
        classes=classes,
        ball=ball,
        x=start,
        before=start,
        value=value,
        gradient=gradient,
        top=start,
        top_value=value,
        top_gradient=gradient,
        size=start.new_full((len(start), *[1] * (start.ndim - 1)), 2 * ball.eps),
        rises=torch.zeros_like(labels),
        halved=torch.zeros_like(stood),
        top_then=value,
    )
    checked, last = set(checkpoints(steps)), 0
    for step in range(1, steps + 1):
        of = of.standing()
        if of is None:
            return found, highest, stood
        _step(of, MOMENTUM if step > 1 else 1.0)
        logits, value, of.gradient = slope(model, of.x, partial(_told, loss, of.classes))
        of.rises = of.rises + (value > of.value)
        of.value = value
        better = value > of.top_value
        of.top = where(better, of.x, of.top)
        of.top_gradient = where(better, of.gradient, of.top_gradient)
        of.top_value = torch.maximum(value, of.top_value)
        fallen = of.stands & ~hits(logits, of.labels)
        of.stands = of.stands & ~fallen
        found[of.row[fallen]] = of.x[fallen]
        stood[of.row[fallen]] = False
        if step in checked:
            _check_progress(of, step - last)
            last = step
    found[of.row[of.stands]] = of.top[of.stands]
    highest[of.row[of.stands]] = of.top_value[of.stands].float()
    return found, highest, stood


def _step(of: _Climb, new: float) -> None:
    """One step of the algorithm (its lines 7 and 8)."""
    ahead = of.ball.project(of.x + of.size * of.ball.steepest(of.gradient))
    x = of.ball.project(of.x + new * (ahead - of.x) + (1 - new) * (of.x - of.before))
    of.before, of.x = of.x, x


def _check_progress(of: _Climb, steps: int) -> None:
    """Halve the step size, and go back to the best point, where ``steps`` brought too little (lines 12 to 14)."""
    few = of.rises < RHO * steps
    idle = ~of.halved & (of.top_value == of.top_then)
    of.halved = few | idle
    of.size = where(of.halved, of.size / 2, of.size)
    of.x = where(of.halved, of.top, of.x)
    of.gradient = where(of.halved, of.top_gradient, of.gradient)
    of.value = torch.where(of.halved, of.top_value, of.value)
    of.rises, of.top_then = torch.zeros_like(of.rises), of.top_value


def _told(loss: Loss, classes: Tensor, logits: Tensor) -> Tensor:
    return loss(logits, *classes.unbind(1))


def _check(images: Tensor, labels: Tensor, eps: float, norm: str, **counts: int) -> None:
    check(images, labels, eps, norm)
    check_counts(**counts)
