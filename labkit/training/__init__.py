"""Training: regimes as gradient rules, many models as one, and the privacy they prove."""

from labkit.training.accounting import epsilon, every_account, noise_multiplier
from labkit.training.clipping import gradient_norms
from labkit.training.ensemble import Ensemble, predict, train
from labkit.training.regimes import DEFENCES, LARGE, REGIMES, Recipe, at_epsilon
from labkit.training.rules import Adversarial, Blend, Interval, Mean, Private, Trades
from labkit.training.watch import milestones

__all__ = [
    "DEFENCES",
    "LARGE",
    "REGIMES",
    "Adversarial",
    "Blend",
    "Ensemble",
    "Interval",
    "Mean",
    "Private",
    "Recipe",
    "Trades",
    "at_epsilon",
    "epsilon",
    "every_account",
    "gradient_norms",
    "milestones",
    "noise_multiplier",
    "predict",
    "train",
]
