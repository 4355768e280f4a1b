"""FGSM and PGD: steps of a fixed size up the gradient."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from labkit.attacks.ascent import ascend, slope
from labkit.attacks.balls import Ball, around
from labkit.attacks.losses import Loss, cross_entropy, named
from labkit.attacks.points import in_pieces, strongest, waves
from labkit.attacks.promises import check, check_classes, check_counts, correct, eval_mode, hits, outputs
from labkit.workers import spread


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Fast gradient sign method: one step of size ``eps`` from the image itself.

    Goodfellow, Shlens and Szegedy (2015), section 4.

    Args:
        model: images in [0, 1] to logits [N, C].
        images: [N, ...] in [0, 1], floating point.
        labels: [N] int64, the true classes.
        eps: l-infinity radius in [0, 1].

    Returns:
        Adversarial images, shaped as ``images``.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels that do not fit, eps out of range.
    """
    check(images, labels, eps)
    images = _known(model, images, labels)

    def attack(part: slice) -> Tensor:
        return ascend(model, images[part], labels[part], eps, steps=1, step_size=eps, start=images[part])

    with eval_mode(model):
        return torch.cat([images[:0], *spread(attack, len(images), images.device)])


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    loss: str = "ce",
    norm: str = "linf",
) -> Tensor:
    """Projected gradient descent: steepest steps up the loss from a random point of the ball.

    Madry et al. (2018), section 2.1. Each restart yields its last iterate. With several restarts, a point
    that one of them broke keeps the image that broke it; a point that none broke keeps the image of
    highest loss. So a point counts as robust only if it survives all restarts.

    Args:
        model, images, labels: as for :func:`fgsm`.
        eps: radius of the ball, in [0, 1] in the l-infinity norm.
        steps: gradient steps a restart, at least 1.
        step_size: length of a step, in the norm; by default ``2.5 * eps / steps``, as Madry et al. (2018).
        restarts: independent random starts, at least 1.
        seed: determines the starts, whatever the chunking.
        loss: ``ce``, ``margin`` (Carlini and Wagner 2017), or ``dlr`` (Croce and Hein 2020; at least 3 classes).
        norm: ``linf`` or ``l2``.

    Returns:
        Adversarial images, shaped as ``images``.

    Raises:
        ValueError: as for :func:`fgsm`, or steps or restarts below 1, or a step size that is not positive, or a loss
            or norm that is unknown.
    """
    step_size = _check_steps(images, labels, eps, steps, step_size, restarts, norm)
    images = _known(model, images, labels)
    ball, climbed = around(images, eps, norm), named(loss)
    draw = torch.Generator(device=images.device).manual_seed(seed)
    best, stands = images.clone(), torch.ones_like(labels, dtype=torch.bool)
    highest = torch.full(labels.shape, -math.inf, device=images.device)  # [N] loss; +inf once a point is broken

    def walk(rows: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return _walk(model, labels[rows], ball[rows], climbed, steps, step_size, start)

    with eval_mode(model):
        for wave, standing in waves(restarts, stands):
            # Of all points, so that a point's own start does not depend on the others.
            starts = torch.cat([ball.start(draw)[standing] for _ in wave])
            value, attacked = strongest(len(wave), *in_pieces(walk, standing.repeat(len(wave)), starts))
            better = value > highest[standing]
            best[standing[better]] = attacked[better]
            highest[standing] = torch.maximum(highest[standing], value)
            stands[standing] = highest[standing] < math.inf
    return best


def _walk(
    model: nn.Module, labels: Tensor, ball: Ball, loss: Loss, steps: int, step_size: float, x: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss after ``steps`` steps from ``x``, float32 [n], infinite where the model errs; and the iterate itself."""
    for _ in range(steps):
        _, _, gradient = slope(model, x, partial(loss, labels=labels))
        x = ball.project(x + step_size * ball.steepest(gradient))
    with torch.no_grad():
        logits = model(x)  # [n, C]
    return torch.where(hits(logits, labels), loss(logits, labels).float(), math.inf), x


def withstand(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int,
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Which images stay correctly classified all through :func:`pgd`, from the same starts: bool [N].

    An image is left alone as soon as it, its start or an iterate is misclassified. So this is never more than what
    survives :func:`pgd`'s last iterates, and costs less wherever images fall.

    Args, Raises: as for :func:`pgd`.
    """
    step_size = _check_steps(images, labels, eps, steps, step_size, restarts)
    stands, ball = correct(model, images, labels), around(images.detach(), eps, "linf")
    draw = torch.Generator(device=images.device).manual_seed(seed)

    def outlast(rows: Tensor, start: Tensor) -> tuple[Tensor]:
        return (_outlast(model, labels[rows], ball[rows], steps, step_size, start),)

    with eval_mode(model):
        for wave, standing in waves(restarts, stands):
            starts = torch.cat([ball.start(draw)[standing] for _ in wave])
            (stood,) = in_pieces(outlast, standing.repeat(len(wave)), starts)
            stands[standing] = stood.view(len(wave), -1).all(0)
    return stands


def _outlast(model: nn.Module, labels: Tensor, ball: Ball, steps: int, step_size: float, x: Tensor) -> Tensor:
    """Which images are right at ``x`` and at each of the iterates that :func:`pgd` takes from there: bool [N]."""
    stood = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    left = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        if step < steps:
            logits, _, gradient = slope(model, x, partial(cross_entropy, labels=labels))
        else:
            with torch.no_grad():
                logits = model(x)
        rows = hits(logits, labels).nonzero()[:, 0]
        if len(rows) < len(left):
            left, labels, ball, x, gradient = (each[rows] for each in (left, labels, ball, x, gradient))
        if not len(left):
            break
        if step < steps:
            x = ball.project(x + step_size * ball.steepest(gradient))
    stood[left] = True
    return stood


def _known(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The images, as constants; raises ValueError where the model does not know a label."""
    if len(images):
        check_classes(outputs(model, images[:1]).shape[1], labels)
    return images.detach()


def _check_steps(
    images: Tensor,
    labels: Tensor,
    eps: float,
    steps: int,
    step_size: float | None,
    restarts: int,
    norm: str = "linf",
) -> float:
    """The size of a step; by default so long that 2.5 radii are walked in all."""
    check(images, labels, eps, norm)
    check_counts(steps=steps, restarts=restarts)
    if step_size is None:
        return 2.5 * eps / steps
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size = {step_size} must be positive; leave it out for 2.5 * eps / steps")
    return step_size
