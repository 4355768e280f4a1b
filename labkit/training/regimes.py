"""Recipes: a rule, how batches are drawn, how long, how fast. A new regime is one function here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
        batch_size: images a step; under Poisson sampling, expected.
        learning_rate: peak of the schedule.
        optimiser: ``adamw`` (linear up over a fifth of the steps, then a half cosine to zero) or ``sgd`` (momentum 0.9,
            constant over half of the steps, then linearly down to zero).
        mirror: each image of a batch is mirrored left to right with probability one half.
        poisson: every member enters every batch independently with rate batch_size / members.
    """

    regime: str
    rule: Rule
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: str = "adamw"
    poisson: bool = False
    mirror: bool = False

    def steps(self, members: int) -> int:
        """Gradient steps on ``members`` training images."""
        if self.poisson:
            return max(1, round(self.epochs * members / self.batch_size))
        return self.epochs * max(1, members // self.batch_size)

    def guarantee(self, members: int, delta: float, accountant: str = "prv") -> float | None:
        """The epsilon proved for this recipe on ``members`` images, or None where nothing is proved."""
        rule = self.rule
        while isinstance(rule, Adversarial):
            rule = rule.rule
        if not (isinstance(rule, Private) and self.poisson):
            return None
        rate = self.batch_size / members
        return epsilon(rule.noise_multiplier, rate, self.steps(members), delta, accountant=accountant)


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
    steps = Recipe("dp", Mean(), epochs, batch, p.dp_learning_rate, poisson=True).steps(members)
    rule = Private(p.dp_clip, noise_multiplier(p.dp_epsilon, batch / members, steps, p.dp_delta), batch)
    return Recipe("dp", rule, epochs, batch, p.dp_learning_rate, optimiser="sgd", poisson=True)


REGIMES: dict[str, Callable[[Params, int, int], Recipe]] = {"standard": standard, "pgd": pgd, "dp": dp}
