"""The ball of each image, cut with the box [0, 1]: where an attack may go, and which step is the steepest."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-12  # keeps the direction of a zero gradient finite


class Ball(Protocol):
    """Balls of one radius around N images."""

    images: Tensor
    eps: float

    def __init__(self, images: Tensor, eps: float): ...

    def __getitem__(self, rows: Tensor) -> Ball:
        """Those of some images."""
        ...

    def start(self, generator: torch.Generator) -> Tensor:
        """A random point of each ball, cut with the box."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """Points [N, ...] brought into ball and box."""
        ...

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        """The unit step that the gradient rates highest."""
        ...

    @staticmethod
    def length(change: Tensor) -> Tensor:
        """The norm of each change, [N]."""
        ...


class Linf:
    """|x - image| <= eps in every pixel."""

    def __init__(self, images: Tensor, eps: float):
        self.images, self.eps = images, eps
        self.low, self.high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)

    def __getitem__(self, rows: Tensor) -> Linf:
        return Linf(self.images[rows], self.eps)

    def start(self, generator: torch.Generator) -> Tensor:
        images = self.images
        noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return (images + self.eps * (2 * noise - 1)).clamp(0, 1)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        return gradient.sign()

    @staticmethod
    def length(change: Tensor) -> Tensor:
        return change.abs().flatten(1).amax(1)


class L2:
    """The Euclidean distance is eps at most. Clipping to the box only shortens a change, so it comes last."""

    def __init__(self, images: Tensor, eps: float):
        self.images, self.eps = images, eps

    def __getitem__(self, rows: Tensor) -> L2:
        return L2(self.images[rows], self.eps)

    def start(self, generator: torch.Generator) -> Tensor:
        images = self.images
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        share = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
        radius = self.eps * share ** (1 / images[0].numel())  # uniform in the ball
        return (images + _wide(radius, images) * self.steepest(noise)).clamp(0, 1)

    def project(self, x: Tensor) -> Tensor:
        change = x - self.images
        shrink = (self.eps / _positive(self.length(change))).clamp(max=1)
        return (self.images + change * _wide(shrink, x)).clamp(0, 1)

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        # The squares of what a sure model leaves of a gradient would underflow.
        gradient = gradient / _wide(Linf.length(gradient), gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / _wide(_positive(L2.length(gradient)), gradient)

    @staticmethod
    def length(change: Tensor) -> Tensor:
        return change.flatten(1).norm(dim=1)


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}


def around(images: Tensor, eps: float, norm: str) -> Ball:
    """The images' balls in the norm of that name.

    Raises:
        ValueError: none has it.
    """
    if norm not in BALLS:
        raise ValueError(f"norm = {norm!r} is unknown; there are {', '.join(BALLS)}")
    return BALLS[norm](images, eps)


def _positive(lengths: Tensor) -> Tensor:
    """Lengths to divide by: none is 0, in half precision neither."""
    return lengths.clamp(min=max(TINY, torch.finfo(lengths.dtype).tiny))


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [N] as [N, 1, ...], to multiply images by."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
