"""Update rules on flat parameters theta [M, P], one row a model, each with a learning rate of its own.

A model whose learning rate is zero stays as it is: so models of an ensemble may end at different steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Args:
        theta: [M, P], the parameters, which are moved in place.
        shapes: of the parameters that a row holds, in their order; here they do not matter.
    """

    beta1, beta2, eps, decay = 0.9, 0.999, 1e-8, 0.01

    def __init__(self, theta: Tensor, shapes: Iterable[torch.Size] = ()):
        self.theta = theta
        self.mean, self.square = torch.zeros_like(theta), torch.zeros_like(theta)
        self.scratch = torch.empty_like(theta)  # fresh memory at every step would take as long as the step
        self.t = theta.new_zeros(())  # a tensor, so that a captured step counts on

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        """Move along ``gradient`` [M, P] at learning rates ``rate`` [M, 1]."""
        self.theta.mul_(1 - rate * self.decay)
        self.theta.addcmul_(self.direction(gradient), -rate)

    def direction(self, gradient: Tensor) -> Tensor:
        """What a learning rate of 1 would subtract, [M, P]; valid until the next step."""
        self.t += 1
        self.mean.lerp_(gradient, 1 - self.beta1)
        self.square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = torch.div(self.square, 1 - self.beta2**self.t, out=self.scratch).sqrt_().add_(self.eps)
        return torch.div(self.mean, root, out=root).div_(1 - self.beta1**self.t)


class Muon(AdamW):
    """AdamW, but of a convolution all directions of its momentum are taken equally far (Muon, Jordan et al. 2024).

    A gradient's matrix, filters by what they see, has few large singular values; with all of them at one the filters
    learn as much from the rest. Its length is that of AdamW's steps, so that one learning rate serves both (Liu et al.
    2025, section 2.2). Linear layers gain little by it here, and are large.

    Args:
        theta: [M, P], the parameters, which are moved in place.
        shapes: of the parameters that a row holds, in their order; those of four axes are convolutions.
    """

    length = 0.2  # of a step, root mean square over a kernel's entries, at a learning rate of 1

    def __init__(self, theta: Tensor, shapes: Iterable[torch.Size] = ()):
        super().__init__(theta)
        self.kernels: list[tuple[int, int, int]] = []  # where one begins, its filters, and the inputs of each
        start = 0
        for shape in shapes:
            if len(shape) == 4:
                self.kernels.append((start, shape[0], shape[1:].numel()))
            start += shape.numel()

    def direction(self, gradient: Tensor) -> Tensor:
        """AdamW's, with convolutions' own in its place."""
        found = super().direction(gradient)
        for start, filters, inputs in self.kernels:
            part = slice(start, start + filters * inputs)
            momentum = self.mean[:, part].unflatten(1, (filters, inputs))  # [M, R, C]
            found[:, part] = orthogonal(momentum).flatten(1) * (self.length * math.sqrt(max(filters, inputs)))
        return found


def orthogonal(matrices: Tensor, steps: int = 3) -> Tensor:
    """Singular values of each of [M, R, C] moved towards 1 by Newton-Schulz steps, singular vectors kept.

    The quintic's coefficients are those of Jordan et al. (2024): steep at 0, and not exact at 1. A few steps bring all
    but the smallest values to between about 0.7 and 1.2. With R <= C products of C numbers are two, whatever the steps:
    the polynomial is found for the small matrices X X'.
    """
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    square = x @ x.mT  # [M, R, R]
    whole = one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(square)
    for _ in range(steps):
        factor = 3.4445 * one + torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        whole, square = factor @ whole, factor @ square @ factor
    return whole @ x


class SGD:
    """Stochastic gradient descent with momentum 0.9 (Polyak 1964).

    Args:
        theta: [M, P], the parameters, which are moved in place.
        shapes: of the parameters that a row holds, in their order; here they do not matter.
    """

    momentum = 0.9

    def __init__(self, theta: Tensor, shapes: Iterable[torch.Size] = ()):
        self.theta = theta
        self.velocity = torch.zeros_like(theta)

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        """Move along ``gradient`` [M, P] at learning rates ``rate`` [M, 1]."""
        self.velocity.mul_(self.momentum).add_(gradient)
        self.theta.addcmul_(self.velocity, -rate)


class Average:
    """Exponential moving average of parameters, free of its start at zero (Kingma and Ba 2015, section 3, for Adam).

    Args:
        theta: [M, P], the parameters that move.
        decay: what one step leaves of the average, in [0, 1); at 0 the average is the parameters themselves.
    """

    def __init__(self, theta: Tensor, decay: float):
        self.theta, self.decay = theta, decay
        self.mean = torch.zeros_like(theta)
        self.weight = theta.new_zeros(len(theta), 1)  # sum of the weights so far, a model

    def step(self, rate: Tensor) -> None:
        """Take in the parameters as they are now, of models whose learning rate [M, 1] is not zero."""
        share = (1 - self.decay) * (rate > 0).to(self.theta.dtype)
        self.mean.lerp_(self.theta, share)
        self.weight.lerp_(torch.ones_like(self.weight), share)

    def value(self) -> Tensor:
        """The average now, [M, P]; the first is the parameters after the first step."""
        return self.mean / self.weight


def warm_cosine(t: int, steps: int) -> float:
    """Linear up over a fifth of the steps, then half a cosine down to zero."""
    rise = max(1, steps // 5)
    fall = max(1, steps - rise)
    return min((t + 1) / rise, (1 + math.cos(math.pi * max(0, t - rise) / fall)) / 2)


def flat_linear(t: int, steps: int) -> float:
    """Constant over half of the steps, then linearly down to zero."""
    return min(1.0, 2 * (1 - t / steps))


# By a recipe's name for it: the update, and the learning rate's course over the steps as a share of its peak.
OPTIMISERS: dict[str, tuple[type[AdamW] | type[SGD], Callable[[int, int], float]]] = {
    "muon": (Muon, warm_cosine),
    "adamw": (AdamW, warm_cosine),
    "sgd": (SGD, flat_linear),
}
