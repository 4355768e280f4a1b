"""What every attack promises: sane input, a model left as it was, and points judged on what is returned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from labkit.workers import spread


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradient to parameters, no autocast inside; afterwards every submodule and parameter is as it was.

    Autocast is a thread's own: those that share the work would not have it.
    """
    modes = [(module, module.training) for module in model.modules()]
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in free:
        parameter.requires_grad_(False)
    devices = {part.device.type for part in (*model.parameters(), *model.buffers())} | {"cpu"}
    try:
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in free:
            parameter.requires_grad_(True)


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, C] in eval mode, computed piece by piece. There must be an image at least."""

    def of_part(part: slice) -> Tensor:
        with torch.no_grad():  # a thread's own state
            return model(images[part])

    with eval_mode(model):
        return torch.cat(spread(of_part, len(images), images.device))


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images [N, ...] the model classifies as their labels [N] say: bool [N], in eval mode.

    Raises:
        ValueError: labels that do not fit.
    """
    check_labels(images, labels)
    if not len(images):
        return labels.new_empty(0, dtype=torch.bool)
    return judged(outputs(model, images), labels)


def judged(logits: Tensor, labels: Tensor) -> Tensor:
    """:func:`hits` of logits [N, C], N at least 1.

    Raises:
        ValueError: fewer than 2 classes, or a label that is none of them.
    """
    check_classes(logits.shape[1], labels)
    return hits(logits, labels)


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Which logits [N, C] are highest where the labels [N] say: bool [N]; one that is NaN makes the answer wrong."""
    highest, answer = logits.max(1)  # NaN counts as the highest
    return (answer == labels) & ~highest.isnan()


def rivals(model: nn.Module, images: Tensor, labels: Tensor, most: int) -> Tensor:
    """The classes nearest to winning against the true one: [N, min(most, C - 1)], by logit, the nearest first.

    Raises:
        ValueError: a model with one class, or ``most`` below 1.
    """
    if most < 1:
        raise ValueError(f"targets = {most} must be at least 1; 9 is usual")
    if not len(images):
        return labels.new_empty(0, 1)
    logits = outputs(model, images)
    check_classes(logits.shape[1], labels)
    others = logits.scatter(1, labels[:, None], -math.inf)
    return others.topk(min(most, logits.shape[1] - 1)).indices


def check(images: Tensor, labels: Tensor, eps: float, norm: str = "linf") -> None:
    """Raises ValueError where an attack could not mean anything."""
    if torch.is_inference_mode_enabled():
        raise ValueError("under torch.inference_mode() nothing has a gradient; use torch.no_grad()")
    if norm == "linf" and not 0 <= eps <= 1:
        raise ValueError(f"eps = {eps} must lie in [0, 1], the range of pixels; divide by 255 if it counts grey levels")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps = {eps} must be finite and not negative: it is the radius of a ball")
    check_labels(images, labels)
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}: need floating point in [0, 1]; divide bytes by 255")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # also false for NaN
        raise ValueError(
            f"images reach from {images.min():.3g} to {images.max():.3g}, not within [0, 1]; "
            "put normalisation inside the model and pass pixels"
        )


def check_labels(images: Tensor, labels: Tensor) -> None:
    """Raises ValueError where labels are not one class an image."""
    if labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images but labels {list(labels.shape)}: need one label an image, [N]")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}: need int64; labels.long() makes them so")
    if labels.device != images.device:
        raise ValueError(f"images are on {images.device}, labels on {labels.device}: move one of them")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"a label is {labels.min()}: classes are counted from 0; leave images without a class out")


def check_classes(classes: int, labels: Tensor) -> None:
    """Raises ValueError where a model of so many classes cannot be mistaken, or does not know one of the labels."""
    if classes < 2:
        raise ValueError(f"the model has {classes} class: there is nothing to be mistaken for")
    if labels.max() >= classes:
        raise ValueError(f"a label is {labels.max()}, but the model has {classes} classes, counted from 0")


def check_counts(**counts: int) -> None:
    """Raises ValueError where something that is counted, such as steps or restarts, is below 1."""
    if min(counts.values()) < 1:
        said = ", ".join(f"{name} = {value}" for name, value in counts.items())
        raise ValueError(f"{said}: {'both' if len(counts) == 2 else 'each'} must be at least 1")
