"""Training: regimes as gradient rules, many models as one, and the privacy they prove."""

from labkit.training.accounting import epsilon, noise_multiplier, side_by_side
from labkit.training.clipping import gradient_norms
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
    "gradient_norms",
    "noise_multiplier",
    "predict",
    "side_by_side",
    "train",
]
