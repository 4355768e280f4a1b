"""A regime is a gradient rule: what each example adds, and what becomes of the sum.

Training regimes differ in these two functions, and they compose: a rule that moves the inputs
(:class:`Adversarial`) holds a rule that makes the gradient, so ``Adversarial(Private(...), eps, steps)`` is
adversarial training with differential privacy. Since examples only add up, a batch can be computed in pieces, and
for many models at once. Rules are frozen dataclasses: their ``repr`` is part of the key under which a trained model
is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from labkit.attacks.ascent import ascend
from labkit.training.clipping import clipped_sum
from labkit.training.dice import Dice
from labkit.training.stack import Stack


class Rule(Protocol):
    """What the training loop asks of a regime."""

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        """What a piece of the batch adds to the sum: [M, P].

        Args:
            stack: M classifiers, their parameters as they are now.
            images: [M B, 1, 28, 28] in [0, 1], B for each model; labels: [M B], -100 where there is no example.
            dice: the piece's randomness, on the images' device.
        """
        ...

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        """The gradient to step along, [M, P], from the sum over the batch.

        Args:
            total: [M, P]; may be overwritten.
            counts: [M, 1], examples in each model's batch; may be 0 under Poisson sampling.
            dice: the batch's randomness, on the device.
        """
        ...


@dataclass(frozen=True)
class Mean:
    """Empirical risk minimisation: the gradient of the batch's mean cross-entropy."""

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        return stack.gradient(F.cross_entropy(stack(images), labels, reduction="sum"))

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return total / counts.clamp(min=1)


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

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        radius = self.eps * (1 + self.spread * (2 * dice.uniform(len(images), 1, 1, 1) - 1))  # [M B, 1, 1, 1]
        start = (images + radius * (2 * dice.uniform(*images.shape) - 1)).clamp(0, 1)
        attacked = ascend(stack, images, labels, radius, self.steps, 1.5 * radius / self.steps, start)
        return self.rule.add(stack, attacked, labels, dice)

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return self.rule.finish(total, counts, dice)


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
    """

    clip: float
    noise_multiplier: float
    expected_batch: int

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        return clipped_sum(stack, images, labels, self.clip)

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        noise = dice.normal(*total.shape)
        return (total + self.noise_multiplier * self.clip * noise) / self.expected_batch
