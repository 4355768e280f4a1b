"""Training: regimes as gradient rules, many models as one, and the privacy they prove."""

from labkit.training.accounting import epsilon, noise_multiplier
from labkit.training.ensemble import Ensemble, predict, train
from labkit.training.regimes import REGIMES, Recipe
from labkit.training.rules import Adversarial, Mean, Private

__all__ = [
    "REGIMES",
    "Adversarial",
    "Ensemble",
    "Mean",
    "Private",
    "Recipe",
    "epsilon",
    "noise_multiplier",
    "predict",
    "train",
]
