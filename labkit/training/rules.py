"""A regime is a gradient rule: ``(model, images, labels, generator) -> gradient``.

Training regimes differ in this one function, and the functions compose: a rule that moves the inputs
(:class:`Adversarial`) holds a rule that makes the gradient, so ``Adversarial(Private(...), eps, steps)`` is
adversarial training with differential privacy. Rules are frozen dataclasses: their ``repr`` is part of the
key under which a trained model is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.attacks import ascend
from labkit.training.clipping import clipped_sum

Gradient = dict[str, Tensor]  # by parameter name, shaped as the parameter


class Rule(Protocol):
    """What the training loop asks of a regime."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Gradient:
        """The gradient to step along.

        Args:
            model: the classifier, its parameters as they are now.
            images: [B, 1, 28, 28] in [0, 1]; labels: [B]. B may be 0 under Poisson sampling.
            generator: the rule's randomness, on the images' device.
        """
        ...


@dataclass(frozen=True)
class Mean:
    """Empirical risk minimisation: the gradient of the batch's mean cross-entropy."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Gradient:
        names, parameters = zip(*model.named_parameters(), strict=True)
        loss = F.cross_entropy(model(images), labels)
        return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training: ``rule``'s gradient, taken at attacked inputs (Madry et al. 2018, section 2).

    The attack on an example uses that example and the parameters only, so the composition with
    :class:`Private` keeps its guarantee.

    Attributes:
        rule: makes the gradient.
        eps: mean l-infinity radius on pixels in [0, 1].
        steps: PGD steps from a random start, each 1.5 radii / steps long. Longer steps jump from corner to corner of
            the ball, and can leave a network whose gradients mislead the attack instead of one that withstands it.
        spread: each image's radius is drawn uniformly from eps (1 - spread) to eps (1 + spread). At 0 all radii are
            ``eps``; a network then learns that very radius, and falls apart a little beyond it.
    """

    rule: Rule
    eps: float
    steps: int
    spread: float = 0.0

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Gradient:
        def uniform(*shape: int) -> Tensor:  # in [-1, 1)
            return 2 * torch.rand(shape, generator=generator, device=images.device) - 1

        radius = self.eps * (1 + self.spread * uniform(len(images), 1, 1, 1))  # [B, 1, 1, 1]
        start = (images + radius * uniform(*images.shape)).clamp(0, 1)
        attacked = ascend(model, images, labels, radius, self.steps, 1.5 * radius / self.steps, start)
        return self.rule(model, attacked, labels, generator)


@dataclass(frozen=True)
class Private:
    """DP-SGD: clip each example's gradient, sum, add noise (Abadi et al. 2016, algorithm 1).

    The sum over a Poisson batch has l2 sensitivity ``clip`` to adding or removing one example; the noise's
    standard deviation is ``noise_multiplier * clip`` a coordinate. Both are divided by the *expected* batch
    size: the size drawn is itself private.

    Attributes:
        clip: l2 bound on an example's gradient, over all parameters together.
        noise_multiplier: noise over ``clip``.
        expected_batch: sampling rate times number of examples.
        chunk: examples whose gradients are in memory at once; changes the result by rounding only.
    """

    clip: float
    noise_multiplier: float
    expected_batch: int
    chunk: int = 128

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Gradient:
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for x, y in zip(images.split(self.chunk), labels.split(self.chunk), strict=True):
            if len(x):
                for name, part in clipped_sum(model, x, y, self.clip).items():
                    total[name] += part
        scale = self.noise_multiplier * self.clip
        for part in total.values():
            part += scale * torch.randn(part.shape, generator=generator, device=part.device)
            part /= self.expected_batch
        return total
