"""Generative models: training, samples, and what they give away about the images they were trained on."""

from labkit.generative.bayes import ElboLogits
from labkit.generative.cvae import Recipe, Trained, fit, reconstruct, sample, split, train
from labkit.generative.leakage import Scores, gap, score, set_accuracy, verdict
from labkit.generative.networks import CVAE, fresh

__all__ = [
    "CVAE",
    "ElboLogits",
    "Recipe",
    "Scores",
    "Trained",
    "fit",
    "fresh",
    "gap",
    "reconstruct",
    "sample",
    "score",
    "set_accuracy",
    "split",
    "train",
    "verdict",
]
