"""Update rules on flat parameters theta [M, P], one row a model, each with a learning rate of its own.

A model whose learning rate is zero stays as it is: so models of an ensemble may end at different steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    beta1, beta2, eps, decay = 0.9, 0.999, 1e-8, 0.01

    def __init__(self, theta: Tensor):
        self.theta = theta
        self.mean, self.square = torch.zeros_like(theta), torch.zeros_like(theta)
        self.scratch = torch.empty_like(theta)  # fresh memory at every step would take as long as the step
        self.t = theta.new_zeros(())  # a tensor, so that a captured step counts on

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        """Move along ``gradient`` [M, P] at learning rates ``rate`` [M, 1]."""
        self.t += 1
        self.mean.lerp_(gradient, 1 - self.beta1)
        self.square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = torch.div(self.square, 1 - self.beta2**self.t, out=self.scratch).sqrt_().add_(self.eps)
        self.theta.mul_(1 - rate * self.decay)
        self.theta.addcmul_(torch.div(self.mean, root, out=root), -rate / (1 - self.beta1**self.t))


class SGD:
    """Stochastic gradient descent with momentum 0.9 (Polyak 1964)."""

    momentum = 0.9

    def __init__(self, theta: Tensor):
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
    "adamw": (AdamW, warm_cosine),
    "sgd": (SGD, flat_linear),
}
