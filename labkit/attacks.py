"""Evasion: adversarial images inside the l-infinity ball *and* inside [0, 1], for any classifier.

``model`` is any ``nn.Module`` from images in [0, 1] to logits; normalisation lives inside it. An attack
runs the model in eval mode and leaves its mode, its parameters and their gradients as they were. On the CPU the
model is called from several threads at once, with a piece of the images each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    _check(images, labels, eps)

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
) -> Tensor:
    """Projected gradient descent: sign steps up the cross-entropy from a random point of the ball.

    Madry et al. (2018), section 2.1. Each restart yields its last iterate. With several restarts, a point
    that one of them broke keeps the image that broke it; a point that none broke keeps the image of
    highest loss. So a point counts as robust only if it survives all restarts.

    Args:
        model, images, labels, eps: as for :func:`fgsm`.
        steps: gradient steps a restart, at least 1.
        step_size: l-infinity length of a step; by default ``2.5 * eps / steps``, as Madry et al. (2018).
        restarts: independent random starts, at least 1.
        seed: determines the starts, whatever the chunking.

    Returns:
        Adversarial images, shaped as ``images``.

    Raises:
        ValueError: as for :func:`fgsm`, or steps or restarts below 1, or a step size that is not positive.
    """
    step_size = _check_steps(images, labels, eps, steps, step_size, restarts)
    best = images.clone()
    highest = torch.full(labels.shape, -math.inf, device=images.device)  # [N] loss; +inf once a point is broken
    with eval_mode(model):
        for starts in _starts(images, eps, restarts, seed):
            standing = (highest < math.inf).nonzero()[:, 0]  # a broken point needs no further restart

            def restart(part: slice, starts: Tensor = starts, standing: Tensor = standing) -> None:
                points = standing[part]
                x, y = images[points], labels[points]
                attacked = ascend(model, x, y, eps, steps, step_size, starts[points])
                with torch.no_grad():
                    logits = model(attacked)  # [n, C]
                loss = F.cross_entropy(logits, y, reduction="none").to(highest.dtype)
                loss = torch.where(logits.argmax(1) != y, math.inf, loss)
                better = loss > highest[points]
                best[points[better]] = attacked[better]
                highest[points] = torch.maximum(highest[points], loss)

            spread(restart, len(standing), images.device)
    return best


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
    stands = correct(model, images, labels)
    with eval_mode(model):
        for starts in _starts(images, eps, restarts, seed):
            standing = stands.nonzero()[:, 0]

            def restart(part: slice, starts: Tensor = starts, standing: Tensor = standing) -> None:
                points = standing[part]
                stands[points] = _outlast(model, images[points], labels[points], eps, steps, step_size, starts[points])

            spread(restart, len(standing), images.device)
    return stands


def _outlast(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, steps: int, step_size: float, x: Tensor
) -> Tensor:
    """Which images are right at ``x`` and at each of the iterates that :func:`ascend` takes from there: bool [N]."""
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    left = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        if step < steps:
            logits, gradient = _slope(model, x, labels[left])
        else:
            with torch.no_grad():
                logits = model(x)
        stands = logits.argmax(1) == labels[left]
        left = left[stands]
        if step < steps:
            x = (x[stands] + step_size * gradient[stands].sign()).clamp(low[left], high[left])
        if not len(left):
            break
    stood = torch.zeros(len(images), dtype=torch.bool, device=x.device)
    stood[left] = True
    return stood


def _starts(images: Tensor, eps: float, restarts: int, seed: int) -> Iterator[Tensor]:
    """Random points of each image's ball, a tensor a restart; all are drawn, whichever points still stand."""
    generator = torch.Generator(device=images.device).manual_seed(seed)
    for _ in range(restarts):
        noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        yield (images + eps * (2 * noise - 1)).clamp(0, 1)


def ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float | Tensor,
    steps: int,
    step_size: float | Tensor,
    start: Tensor,
) -> Tensor:
    """The loop that FGSM, PGD and adversarial training share: sign steps, projected on ball and box.

    ``eps`` and ``step_size`` are numbers, or tensors [N, 1, 1, 1] with one for each image.
    """
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    x = start.detach()
    for _ in range(steps):
        x = (x + step_size * input_gradient(model, x, labels).sign()).clamp(low, high)
    return x


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's own cross-entropy with respect to its pixels, shaped as ``images``."""
    return _slope(model, images, labels)[1]


def _slope(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, C], and the gradient of each image's own cross-entropy with respect to its pixels."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = model(x)
        # The sum, not the mean: an image's gradient must not shrink with the batch it is in.
        loss = F.cross_entropy(logits, labels, reduction="sum")
        # Where the loss has no slope (0 / 0 in the model), the attack stays where it is.
        return logits.detach(), torch.autograd.grad(loss, x)[0].nan_to_num(0.0)


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images [N, ...] the model classifies as their labels [N] say: bool [N], in eval mode."""

    def right(part: slice) -> Tensor:
        with torch.no_grad():  # a thread's own state
            return model(images[part]).argmax(1) == labels[part]

    with eval_mode(model):
        return torch.cat([labels.new_empty(0, dtype=torch.bool), *spread(right, len(images), images.device)])


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check(images: Tensor, labels: Tensor, eps: float) -> None:
    if not 0 <= eps <= 1:
        raise ValueError(f"eps = {eps} must lie in [0, 1], the range of pixels; divide by 255 if it counts grey levels")
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels: need one label an image")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: need floating point in [0, 1]; divide bytes by 255")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # also false for NaN
        raise ValueError(
            f"images reach from {images.min():.3g} to {images.max():.3g}, not within [0, 1]; "
            "put normalisation inside the model and pass pixels"
        )


def _check_steps(
    images: Tensor, labels: Tensor, eps: float, steps: int, step_size: float | None, restarts: int
) -> float:
    """The size of a step; by default so long that 2.5 radii are walked in all."""
    _check(images, labels, eps)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps = {steps}, restarts = {restarts}: both must be at least 1")
    if step_size is None:
        return 2.5 * eps / steps
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size = {step_size} must be positive; leave it out for 2.5 * eps / steps")
    return step_size
