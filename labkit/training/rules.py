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
from labkit.bounds import passed, worst_logits
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
        start = _somewhere(images, radius, dice)
        attacked = ascend(stack, images, labels, radius, self.steps, 1.5 * radius / self.steps, start)
        return self.rule.add(stack, attacked, labels, dice)

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return self.rule.finish(total, counts, dice)


@dataclass(frozen=True)
class Trades:
    """TRADES: what an attack moves is the prediction, not the label (Zhang et al. 2019, section 4, equation 5).

    Cross-entropy at the clean image, plus ``beta`` times KL(clean || attacked): the image is attacked to raise that
    divergence, with the clean prediction held fixed, and then both sides learn.

    Attributes:
        beta: weight of the divergence; 1 / lambda in the paper.
        eps: l-infinity radius on pixels in [0, 1].
        steps: of the attack, from a random point of the ball (at the image itself the divergence has no slope), each
            1.5 radii / steps long.
    """

    beta: float
    eps: float
    steps: int

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        clean = stack(images)  # [M B, C]
        # Cross-entropy with a fixed prediction as its target differs from the divergence by a constant.
        held, start = clean.detach().softmax(1), _somewhere(images, self.eps, dice)
        attacked = ascend(stack, images, held, self.eps, self.steps, 1.5 * self.eps / self.steps, start)
        moved = stack(attacked)  # [M B, C]
        loss = F.cross_entropy(clean, labels, reduction="sum")
        apart = F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)  # [M B]
        return stack.gradient(loss + self.beta * (apart * (labels >= 0)).sum())

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return total / counts.clamp(min=1)


@dataclass(frozen=True)
class Interval:
    """Interval bound propagation: the loss at a bound of what any attack could reach (Gowal et al. 2018, section 3).

    kappa CE(clean logits) + (1 - kappa) CE(worst logits). Both the radius and the weight of the bound rise linearly
    from zero over a part of the training: bounds of a fresh network at the full radius say nothing to learn from.

    Attributes:
        eps: l-infinity radius on pixels in [0, 1], in the end.
        kappa: weight of the clean loss in the end.
        rise: shares of the training at which the rise begins and ends, the first below the second.
    """

    eps: float
    kappa: float = 0.5
    rise: tuple[float, float] = (0.1, 0.6)

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        begin, end = self.rise
        risen = ((stack.age - begin) / (end - begin)).clamp(0, 1)  # [M, 1]
        risen = risen.expand(-1, len(images) // len(stack)).reshape(-1)  # [M B]
        kappa = 1 - (1 - self.kappa) * risen
        worst = worst_logits(passed(stack.network), images, self.eps * risen.view(-1, 1, 1, 1), labels)
        losses = [F.cross_entropy(logits, labels, reduction="none") for logits in (stack(images), worst)]
        return stack.gradient((kappa * losses[0] + (1 - kappa) * losses[1]).sum())

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return total / counts.clamp(min=1)


@dataclass(frozen=True)
class Blend:
    """Two losses at once, each a mean over examples: 1 - ``share`` of the first rule's and ``share`` of the second's.

    :class:`Adversarial` with a share of :class:`Interval` is MTL-IBP (De Palma et al. 2024, section 4.2): an attack
    finds less than the worst there is, a bound claims more, and the share sets a balance between the two.

    Attributes:
        first, second: rules whose ``finish`` divides by the number of examples.
        share: in [0, 1].
    """

    first: Rule
    second: Rule
    share: float

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        first, second = (rule.add(stack, images, labels, dice) for rule in (self.first, self.second))
        return first.lerp_(second, self.share)

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        return total / counts.clamp(min=1)


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


def _somewhere(images: Tensor, radius: float | Tensor, dice: Dice) -> Tensor:
    """A random point of each image's ball, inside the box."""
    return (images + radius * (2 * dice.uniform(*images.shape) - 1)).clamp(0, 1)
