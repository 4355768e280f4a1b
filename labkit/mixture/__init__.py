"""Gaussian mixtures by EM from scratch, all classes at once; a Bayes classifier of them."""

from labkit.mixture.classifier import MixtureClassifier, MixtureLogits
from labkit.mixture.gaussian import GaussianMixture
from labkit.mixture.pca import PCA
from labkit.mixture.selection import Candidate, best, candidates, fit

__all__ = ["PCA", "Candidate", "GaussianMixture", "MixtureClassifier", "MixtureLogits", "best", "candidates", "fit"]
