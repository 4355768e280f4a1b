"""DP-SGD for linear classifiers on fixed features: many of them at once, and no example's gradient is ever made.

The gradient of an example is the outer product of what its logits lack and its features, and its norm the product of
two norms. So heads that differ in noise, clipping or learning rate share a batch and its one matrix product: a whole
frontier of epsilons costs little more than one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.device import generator
from labkit.progress import Tick

MOMENTUM = 0.9


@dataclass(frozen=True)
class Head:
    """How a linear classifier is trained.

    Attributes:
        noise_multiplier: standard deviation of the noise over ``clip``.
        sample_rate: of Poisson sampling, in (0, 1].
        epochs: expected passes over the data.
        learning_rate: of SGD with momentum 0.9, constant; per clipping bound, so that it means the same for any.
        clip: l2 bound on an example's gradient.
        tail: share of the last steps whose weights are averaged into the result, in (0, 1]: averaging what is
            private already costs nothing (Polyak and Juditsky 1992).
    """

    noise_multiplier: float
    sample_rate: float
    epochs: float
    learning_rate: float
    clip: float
    tail: float = 0.25

    @property
    def steps(self) -> int:
        """Gradient steps, a constant of the recipe: the number of examples is private."""
        return max(1, round(self.epochs / self.sample_rate))


@torch.no_grad()
def train_heads(
    features: Tensor,
    labels: Tensor,
    heads: Sequence[Head],
    seed: int,
    *,
    classes: int = 10,
    tick: Tick = lambda examples: None,
) -> Tensor:
    """Train linear classifiers with DP-SGD on the same batches, each with noise of its own.

    Each head by itself has its guarantee. Together they have not: whoever publishes several of one seed publishes
    more than one epsilon.

    Args:
        features: [N, D] float32, on the device to train on; an example's row depends on that example alone.
        labels: [N] int64, there too.
        heads: M, which agree in ``sample_rate`` and ``steps``.
        seed: of batches and noise.
        classes: C.
        tick: called with the number of examples after each batch.

    Returns:
        [M, C, D + 1] float32, weights and then the bias: see :func:`head_logits`.

    Raises:
        ValueError: heads that do not agree.
    """
    rate, steps = heads[0].sample_rate, heads[0].steps
    if any((head.sample_rate, head.steps) != (rate, steps) for head in heads):
        raise ValueError("heads that are trained together must agree in sample_rate and in the number of steps")
    (n, d), m = features.shape, len(heads)
    expected = rate * n  # a constant of the recipe as the rate is; n stands for it
    size = features.new_tensor
    clip = size([head.clip for head in heads])  # [M]
    noise = size([head.clip * head.noise_multiplier for head in heads]).repeat_interleave(classes)[:, None]  # [M C, 1]
    pace = size([head.learning_rate / head.clip for head in heads]).repeat_interleave(classes)[:, None]
    first = [steps - max(1, round(head.tail * steps)) for head in heads]  # step from which weights are averaged

    device = features.device
    theta = features.new_zeros(m * classes, d + 1)
    velocity, mean = torch.zeros_like(theta), torch.zeros_like(theta)
    batches, draws = generator(seed, "batches"), [generator(seed, "noise", i, device=device) for i in range(m)]
    squares = norms(features)  # [N]
    for step in range(steps):
        chosen = (torch.rand(n, generator=batches) < rate).nonzero()[:, 0].to(device)
        x, truth = features[chosen], F.one_hot(labels[chosen], classes).to(features)[:, None]  # [B, D], [B, 1, C]
        lack = _lack(x, theta, truth)  # [B, M, C]
        squared = lack.square().sum(2) * squares[chosen][:, None]  # [B, M]
        weight = (clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1)[..., None]  # [B, M, 1]
        total = noise * torch.cat([torch.randn(classes, d + 1, generator=draw, device=device) for draw in draws])
        clipped = (lack * weight).flatten(1)  # [B, M C]
        total[:, :d].addmm_(clipped.T, x)
        total[:, d] += clipped.sum(0)
        velocity.mul_(MOMENTUM).add_(total, alpha=1 / expected)
        theta -= pace * velocity
        for i, start in enumerate(first):
            if step >= start:
                rows = slice(i * classes, (i + 1) * classes)
                mean[rows] += (theta[rows] - mean[rows]) / (step - start + 1)
        tick(len(chosen))
    return mean.view(m, classes, d + 1)


@torch.no_grad()
def private_mean(features: Tensor, bound: float, noise_multiplier: float, seed: int) -> Tensor:
    """The mean of features, released by the Gaussian mechanism: what is common to all images tells none from another.

    Taking it away leaves shorter features, so less noise for the same clip. It is one step of sampling rate 1, to be
    accounted beside the training (:func:`labkit.training.accounting.composed`); with thousands of examples it costs
    next to nothing.

    Args:
        features: [N, D]; rows longer than ``bound`` are shortened to it.
        bound: l2, chosen without the data.
        noise_multiplier: over ``bound``.
        seed: of the noise.

    Returns:
        [D] float32, where the features are.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for part in features.split(4096):
        total += (part * (bound / part.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)).sum(0).double()
    noise = torch.randn(len(total), generator=generator(seed, "mean"), dtype=torch.float64)
    return ((total + noise_multiplier * bound * noise.to(total.device)) / len(features)).float()


def norms(features: Tensor) -> Tensor:
    """Squared l2 norm [N] of features [N, D] and the 1 that the bias is multiplied with."""
    return torch.cat([part.square().sum(1) + 1 for part in features.split(4096)])


def head_logits(weights: Tensor, features: Tensor) -> Tensor:
    """Logits [M, N, C] of heads [M, C, D + 1] on features [N, D]."""
    return torch.stack([torch.addmm(head[:, -1], features, head[:, :-1].T) for head in weights])


def _lack(x: Tensor, theta: Tensor, truth: Tensor) -> Tensor:
    """Gradient of cross-entropy in the logits, p - y: [B, M, C] of features [B, D], heads [M C, D + 1], [B, 1, C]."""
    logits = torch.addmm(theta[:, -1], x, theta[:, :-1].T).unflatten(1, (-1, truth.shape[2]))
    return logits.softmax(2) - truth
