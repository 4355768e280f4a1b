"""Recipes: a rule, how batches are drawn, how long, how fast. A new regime is one function here.

:data:`REGIMES` are trained in every chapter, on all images and on halves. :data:`DEFENCES` are trained against one
radius, for the chapter that compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from labkit.networks import CompactCNN, build
from labkit.params import Params
from labkit.training.accounting import epsilon, noise_multiplier
from labkit.training.rules import Adversarial, Blend, Interval, Mean, Private, Rule, Trades
from labkit.workers import PIECE

LARGE = 2 * PIECE  # pieces of models that are trained a core each


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training besides the data, the members and the seed.

    Attributes:
        regime: its name in rows and figures.
        rule: the gradient rule.
        epochs: (expected) passes over the members.
        batch_size: images a step; under Poisson sampling, a round figure of what to expect.
        learning_rate: peak of the schedule.
        optimiser: ``muon`` or ``adamw`` (linear up over a fifth of the steps, then a half cosine to zero) or ``sgd``
            (momentum 0.9, constant over half of the steps, then linearly down to zero).
        mirror: each image of a batch is mirrored left to right with probability one half.
        average: what is watched and kept is an exponential moving average of the parameters that loses 1 - ``average``
            of its past at a step; 0: the parameters themselves.
        keep: the ``last`` state, or the ``best`` by robust accuracy on validation images after each epoch.
        eps: the one radius that it defends against, which its rows carry and validation images are attacked with; None
            where there is none, or where radii are spread.
        width, hidden, activation, black: of the network; see :func:`labkit.networks.build`.
        sample_rate: of Poisson sampling: every member enters every batch independently with this probability. It is a
            constant of the recipe, whoever the members are; the number of training images behind it counts as public.
            None: shuffled batches.
        piece: examples that a core computes at once; it decides how sums are rounded, and what is drawn for which
            example. Cores can share a batch where it has several pieces; where each core has a model of its own, pieces
            as large as a batch are faster (two cores, :data:`LARGE`: standard 1.3, PGD 1.25, DP-SGD 1.07 times).
    """

    regime: str
    rule: Rule
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: str = "muon"
    sample_rate: float | None = None
    mirror: bool = False
    average: float = 0.0
    keep: Literal["last", "best"] = "last"
    eps: float | None = None
    width: float = 1
    hidden: int = 128
    activation: str = "relu"
    black: float = -1.0
    piece: int = PIECE

    def network(self, seed: int) -> CompactCNN:
        """A fresh network of this recipe, whose weights depend on ``seed`` alone."""
        return build(seed, width=self.width, hidden=self.hidden, activation=self.activation, black=self.black)

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
    return Recipe("standard", Mean(), epochs, min(p.batch_size, members), p.learning_rate, p.optimiser)


def pgd(p: Params, members: int, epochs: int) -> Recipe:
    """PGD adversarial training (Madry et al. 2018)."""
    rule = Adversarial(Mean(), p.train_eps, p.train_steps, p.train_spread)
    return Recipe("pgd", rule, epochs, min(p.batch_size, members), p.learning_rate, p.optimiser, mirror=True)


def dp(p: Params, members: int, epochs: int) -> Recipe:
    """DP-SGD (Abadi et al. 2016), with the least noise that keeps ``dp_epsilon`` over all its steps.

    The noise grows with the number of parameters, and clipping bites where activations grow: so the network is half as
    wide as the others', with tanh for ReLU (Papernot et al. 2021). Where there is much noise, black may better enter as
    0: background is most of an image, and has a share of each clipped gradient that tells nothing.
    """
    batch = min(p.dp_batch_size, members)
    unruled = Recipe(
        "dp",
        Mean(),
        epochs,
        batch,
        p.dp_learning_rate,
        optimiser="sgd",
        sample_rate=batch / members,
        width=0.5,
        hidden=64,
        activation="tanh",
        black=p.dp_black,
    )
    noise = noise_multiplier(p.dp_epsilon, unruled.sample_rate, unruled.steps(members), p.dp_delta)
    return replace(unruled, rule=Private(p.dp_clip, noise, batch))


def at_epsilon(recipe: Recipe, epsilon: float, delta: float) -> Recipe:
    """The same training with the noise that another epsilon takes, and steps that shrink as it grows.

    Learning rate times noise is held: so a batch's noise moves the weights as far, whatever the epsilon.

    Args:
        recipe: of :func:`dp`.
        epsilon: to be kept; delta: with it.
    """
    before = recipe.rule.noise_multiplier
    noise = noise_multiplier(epsilon, recipe.sample_rate, recipe.steps(0), delta)
    rule = replace(recipe.rule, noise_multiplier=noise)
    return replace(recipe, rule=rule, learning_rate=recipe.learning_rate * before / noise)


REGIMES: dict[str, Callable[[Params, int, int], Recipe]] = {"standard": standard, "pgd": pgd, "dp": dp}


def _robust(p: Params, members: int, regime: str, rule: Rule, eps: float) -> Recipe:
    """What the defences that attack while they train have in common; the best state on validation images is kept."""
    return Recipe(
        regime,
        rule,
        p.robust_epochs,
        min(p.batch_size, members),
        p.robust_learning_rate,
        p.optimiser,
        mirror=p.robust_mirror,
        average=p.robust_average,
        keep="best" if p.validation_share else "last",
        eps=eps,
        width=p.robust_width,
        hidden=p.robust_hidden,
    )


def fixed_pgd(p: Params, members: int, eps: float) -> Recipe:
    """PGD adversarial training at one radius (Madry et al. 2018)."""
    return _robust(p, members, "pgd", Adversarial(Mean(), eps, p.train_steps), eps)


def trades(p: Params, members: int, eps: float) -> Recipe:
    """TRADES (Zhang et al. 2019)."""
    return _robust(p, members, "trades", Trades(p.trades_beta, eps, p.train_steps), eps)


def fgsm(p: Params, members: int, eps: float) -> Recipe:
    """One attack step instead of several: a demonstration of catastrophic overfitting (Wong, Rice and Kolter 2020).

    The last state is kept, whatever has become of it; its network is the small one, and AdamW moves it slowly: under
    Muon, or faster, some seeds overfit later, or in part.
    """
    recipe = _robust(p, members, "fgsm", Adversarial(Mean(), eps, steps=1), eps)
    rate = p.robust_learning_rate / 2
    return replace(recipe, keep="last", average=0.0, width=1, hidden=128, optimiser="adamw", learning_rate=rate)


def ibp(p: Params, members: int, eps: float) -> Recipe:
    """Interval bound propagation (Gowal et al. 2018): robust accuracy that can be proved.

    By AdamW: kernels that were moved in all directions alike had looser bounds.
    """
    return Recipe(
        "ibp",
        Interval(eps, p.ibp_kappa),
        p.ibp_epochs,
        min(p.batch_size, members),
        p.ibp_learning_rate,
        "adamw",
        mirror=p.robust_mirror,
        eps=eps,
        width=p.robust_width,
        hidden=p.robust_hidden,
    )


def mtl_ibp(p: Params, members: int, eps: float) -> Recipe:
    """PGD training with a share of interval bounds (De Palma et al. 2024): robust under attack, and in part provably.

    The last state is kept: the best one under attack would be of a time when the bound had not its weight yet.
    """
    recipe = fixed_pgd(p, members, eps)
    return replace(recipe, regime="mtl_ibp", rule=Blend(recipe.rule, Interval(eps, kappa=0), p.mtl_share), keep="last")


def dp_pgd(p: Params, members: int, eps: float) -> Recipe:
    """PGD training with DP-SGD: the attack on an example reads that example alone, so the guarantee is DP-SGD's."""
    private = dp(p, members, p.dp_epochs)
    return replace(private, regime="dp_pgd", rule=Adversarial(private.rule, eps, p.train_steps), eps=eps)


DEFENCES: dict[str, Callable[[Params, int, float], Recipe]] = {
    "pgd": fixed_pgd,
    "trades": trades,
    "fgsm": fgsm,
    "ibp": ibp,
    "mtl_ibp": mtl_ibp,
    "dp_pgd": dp_pgd,
}
