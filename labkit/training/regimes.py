"""Recipes: a rule, how batches are drawn, how long, how fast. A new regime is one function here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from labkit.params import Params
from labkit.training.accounting import epsilon, noise_multiplier
from labkit.training.rules import Adversarial, Mean, Private, Rule


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training besides the data, the members and the seed.

    Attributes:
        regime: its name in rows and figures.
        rule: the gradient rule.
        epochs: (expected) passes over the members.
        batch_size: images a step; under Poisson sampling, a round figure of what to expect.
        learning_rate: peak of the schedule.
        optimiser: ``adamw`` (linear up over a fifth of the steps, then a half cosine to zero) or ``sgd`` (momentum 0.9,
            constant over half of the steps, then linearly down to zero).
        mirror: each image of a batch is mirrored left to right with probability one half.
        sample_rate: of Poisson sampling: every member enters every batch independently with this probability. It is a
            constant of the recipe, not computed from the members, whose number is private. None: shuffled batches.
    """

    regime: str
    rule: Rule
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: str = "adamw"
    sample_rate: float | None = None
    mirror: bool = False

    def steps(self, members: int) -> int:
        """Gradient steps on ``members`` training images."""
        if self.sample_rate is not None:
            return max(1, round(self.epochs / self.sample_rate))
        return self.epochs * max(1, members // self.batch_size)

    def guarantee(self, delta: float, accountant: str = "prv") -> float | None:
        """The epsilon proved for a model of this recipe, or None where nothing is proved."""
        rule = self.rule
        while isinstance(rule, Adversarial):
            rule = rule.rule
        if not isinstance(rule, Private) or self.sample_rate is None:
            return None
        return epsilon(rule.noise_multiplier, self.sample_rate, self.steps(0), delta, accountant=accountant)


def standard(p: Params, members: int, epochs: int) -> Recipe:
    """Empirical risk minimisation."""
    return Recipe("standard", Mean(), epochs, min(p.batch_size, members), p.learning_rate)


def pgd(p: Params, members: int, epochs: int) -> Recipe:
    """PGD adversarial training (Madry et al. 2018)."""
    rule = Adversarial(Mean(), p.train_eps, p.train_steps, p.train_spread)
    return Recipe("pgd", rule, epochs, min(p.batch_size, members), p.learning_rate, mirror=True)


def dp(p: Params, members: int, epochs: int) -> Recipe:
    """DP-SGD (Abadi et al. 2016), with the least noise that keeps ``dp_epsilon`` over all its steps."""
    batch = min(p.dp_batch_size, members)
    unruled = Recipe("dp", Mean(), epochs, batch, p.dp_learning_rate, optimiser="sgd", sample_rate=batch / members)
    noise = noise_multiplier(p.dp_epsilon, unruled.sample_rate, unruled.steps(members), p.dp_delta)
    return replace(unruled, rule=Private(p.dp_clip, noise, batch))


REGIMES: dict[str, Callable[[Params, int, int], Recipe]] = {"standard": standard, "pgd": pgd, "dp": dp}
