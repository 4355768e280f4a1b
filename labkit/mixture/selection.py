"""Choosing the number of components, the covariance and the shrinkage on a part of the training set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit import device
from labkit.mixture.classifier import MixtureClassifier
from labkit.mixture.pca import PCA

SHRINKAGES = (0.0, 10.0, 100.0)


@dataclass(frozen=True)
class Candidate:
    """A mixture classifier that was tried.

    Attributes:
        components, covariance, shrinkage: its settings.
        accuracy: on the ``n`` held-out images. bic: on those that it was fitted to, lower is better.
        temperature: of the least log loss on the held-out images.
    """

    components: int
    covariance: str
    shrinkage: float
    accuracy: float
    n: int
    bic: float
    temperature: float


def candidates(
    images: Tensor,
    labels: Tensor,
    components: Sequence[int],
    *,
    pca_dim: int,
    max_iter: int = 100,
    holdout: float = 0.15,
    seed: int = 0,
    covariances: Iterable[str] = ("diag", "full"),
    shrinkages: Iterable[float] = SHRINKAGES,
) -> list[Candidate]:
    """Fit every combination to a random 1 - ``holdout`` of the training images and score it on the rest.

    Args:
        images: [N, ...]. labels: [N] int. components: values of K.
    """
    order = torch.randperm(len(labels), generator=device.generator(seed, "mixture", "holdout")).to(labels.device)
    cut = round(holdout * len(labels))
    rows = images.flatten(1)
    pca = PCA.fit(rows[order[cut:]], pca_dim)  # once for all: the same rows, so the same plane
    z, y = pca.transform(rows), labels
    tried = []
    for covariance in covariances:
        for shrinkage in shrinkages:
            for k in components:
                model = MixtureClassifier(k, covariance, shrinkage=shrinkage, max_iter=max_iter, seed=seed)
                model.fit(z[order[cut:]], y[order[cut:]]).calibrate(z[order[:cut]], y[order[:cut]])
                accuracy = float((model.predict(z[order[:cut]]) == y[order[:cut]]).double().mean())
                bic = model.bic(z[order[cut:]], y[order[cut:]])
                tried.append(Candidate(k, covariance, shrinkage, accuracy, cut, bic, model.temperature_))
    return tried


def best(tried: Iterable[Candidate]) -> Candidate:
    """The most accurate; of equals, the one with the fewest components, then the first."""
    return max(tried, key=lambda c: (c.accuracy, -c.components))
