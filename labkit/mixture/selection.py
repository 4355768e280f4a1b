"""Choosing K, the covariance and the shrinkage on a part of the training set; fits that the store keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from labkit import device
from labkit.data import Split
from labkit.mixture.classifier import MixtureClassifier
from labkit.mixture.pca import PCA
from labkit.store import Store, checksum, code_version

HOLDOUT = 0.15
SHRINKAGES = (0.0, 10.0, 100.0)


@dataclass(frozen=True)
class Candidate:
    """A mixture classifier that was tried.

    Attributes:
        settings: the arguments of :class:`MixtureClassifier`, the temperature of least log loss on the held-out
            images among them.
        accuracy: on the ``n`` held-out images.
        bic: on the images that it was fitted to, lower is better.
    """

    settings: dict[str, Any]
    accuracy: float
    n: int
    bic: float


def candidates(
    train: Split,
    components: Sequence[int],
    *,
    pca_dim: int,
    max_iter: int = 100,
    seed: int = 0,
    covariances: Sequence[str] = ("diag", "full"),
    shrinkages: Sequence[float] = SHRINKAGES,
    store: Store,
) -> list[Candidate]:
    """Fit every combination to a random 85 % of the training images and score it on the rest."""
    recipe = {"components": list(components), "pca_dim": pca_dim, "max_iter": max_iter, "seed": seed}
    recipe |= {"covariances": list(covariances), "shrinkages": list(shrinkages)}
    key = {
        "candidates": recipe,
        "data": checksum(train.pixels, train.labels),
        **device.numerics(train.labels.device),
        "code": code_version(__name__),
    }
    _, facts = store.get("mixture", key, lambda: ({}, {"tried": [asdict(c) for c in _try(train, **recipe)]}))
    return [Candidate(**c) for c in facts["tried"]]


def _try(
    train: Split,
    components: Iterable[int],
    covariances: Iterable[str],
    shrinkages: Iterable[float],
    pca_dim: int,
    max_iter: int,
    seed: int,
) -> list[Candidate]:
    order = torch.randperm(len(train), generator=device.generator(seed, "mixture", "holdout"))
    cut = round(HOLDOUT * len(train))
    (images, y), (held_images, held_y) = train.batch(order[cut:]), train.batch(order[:cut])
    pca = PCA.fit(images.flatten(1), pca_dim)  # once: the candidates see the same rows, so the same plane
    z, held = pca.transform(images.flatten(1)), pca.transform(held_images.flatten(1))
    tried = []
    for covariance in covariances:
        for shrinkage in shrinkages:
            for k in components:
                model = MixtureClassifier(k, covariance, shrinkage=shrinkage, max_iter=max_iter, seed=seed)
                model.fit(z, y).calibrate(held, held_y)
                accuracy = float((model.predict(held) == held_y).double().mean())
                tried.append(Candidate(model.settings | {"pca_dim": pca_dim}, accuracy, cut, model.bic(z, y)))
    return tried


def best(tried: Iterable[Candidate]) -> Candidate:
    """The most accurate; of equals, the one with the fewest components, then the first."""
    return max(tried, key=lambda c: (c.accuracy, -c.settings["n_components"]))


def fit(train: Split, members: Tensor, settings: dict[str, Any], *, store: Store) -> MixtureClassifier:
    """The classifier of the training images that ``members`` [N] (bool) marks, from the store or fitted now."""
    members = members.to(train.labels.device)
    pixels, labels, classes = train.pixels[members], train.labels[members], range(int(train.labels.max()) + 1)
    key = {"settings": settings, "data": checksum(pixels, labels), **device.numerics(labels.device)}
    key |= {"code": code_version(__name__)}

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        return MixtureClassifier(**settings).fit(pixels.float() / 255, labels, classes=classes).state()

    tensors, facts = store.get("mixture", key, make)
    return MixtureClassifier.from_state({name: t.to(train.labels.device) for name, t in tensors.items()}, facts)
