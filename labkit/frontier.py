"""Accuracy against epsilon: private linear classifiers on scattering features, one for each epsilon.

Tramer and Boneh (2021): features that no data taught, and a classifier so small that the noise finds little to disturb.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version

import torch
from torch import Tensor

from labkit.data import Dataset
from labkit.device import derive, numerics
from labkit.features import described, whitening
from labkit.progress import Bar, Tick, unseen
from labkit.scattering import Scattering
from labkit.store import Store, code_version
from labkit.training.accounting import composed, noise_beside
from labkit.training.linear import Head, head_logits, private_mean, train_heads

TRANSFORM, GROUPS = Scattering(), 3
# Of the mean that is taken away. No row is longer than the bound, so that none is shortened: see
# labkit.features.described.
MEAN_NOISE, MEAN_BOUND = 30.0, 63.0
# From this epsilon on: learning rate in clipping bounds, and clip; chosen on the last 5 000 training images.
SETTINGS = {0.0: (0.6, 0.1), 2.0: (0.8, 0.1), 8.0: (1.2, 12.0)}


@dataclass(frozen=True)
class Frontier:
    """E private classifiers.

    Attributes:
        epsilons: E, as proved (PRV), the released mean included. Each classifier by itself has its guarantee.
        heads: E, how each was trained.
        logits: [E, N, C] on the test images.
        seconds: all of it, features included, as measured when it was done.
    """

    epsilons: list[float]
    heads: list[Head]
    logits: Tensor
    seconds: float


def frontiers(
    data: Dataset,
    epsilons: Sequence[float],
    *,
    sample_rate: float,
    epochs: int,
    delta: float,
    seeds: Sequence[int],
    store: Store,
    bar: Bar = unseen,
) -> list[Frontier]:
    """For each seed a classifier for each epsilon, trained on all training images or taken from the store.

    Args:
        data: training and test images; their features are made once, where any classifier is to be trained.
        epsilons: targets, positive.
        sample_rate: of Poisson sampling, in (0, 1].
        epochs: expected passes.
        delta: of the guarantee.
        seeds: of mean, batches and noise, one a run.
        store: where finished work lies.
        bar: shown where there is something to train, of the images of all steps.
    """
    beside, steps = ((MEAN_NOISE, 1.0, 1),), max(1, round(epochs / sample_rate))
    key = {
        "data": data.sha256,
        "epsilons": list(epsilons),
        "sample_rate": sample_rate,
        "epochs": epochs,
        "delta": delta,
        **numerics(data.train.labels.device),
        "threads": torch.get_num_threads(),  # sums of products of this size are rounded by how many share them
        "opacus": version("opacus"),  # which accounts
        "code": code_version(__name__),
    }

    @cache
    def features() -> tuple[Tensor, Tensor, float]:
        start = time.perf_counter()
        seen, judged = (described(split, TRANSFORM, GROUPS) for split in (data.train, data.test))
        return seen, judged, time.perf_counter() - start

    def make(seed: int, tick: Tick) -> tuple[dict[str, Tensor], dict]:
        seen, judged, taken = features()
        start = time.perf_counter()
        noises = [noise_beside(e, sample_rate, steps, delta, beside) for e in epsilons]
        heads = [Head(noise, sample_rate, epochs, *settings(e)) for e, noise in zip(epsilons, noises, strict=True)]
        mean = private_mean(seen, MEAN_BOUND, MEAN_NOISE, derive(seed, "mean"))
        white = whitening(TRANSFORM, GROUPS).to(seen.device)
        kinds = {"classes": len(data.classes), "tick": tick}
        weights = train_heads(white(seen, mean), data.train.labels, heads, seed, **kinds)
        proved = [composed(((noise, sample_rate, steps), *beside), delta) for noise in noises]
        facts = {"epsilons": proved, "heads": [asdict(h) for h in heads]}
        facts["seconds"] = taken + time.perf_counter() - start
        return {"logits": head_logits(weights, white(judged, mean))}, facts

    keys, share = [key | {"seed": seed} for seed in seeds], round(epochs * len(data.train))
    runs = store.gather("frontier", keys, lambda index, tick: make(seeds[index], tick), [share] * len(seeds), bar)
    return [
        Frontier(facts["epsilons"], [Head(**head) for head in facts["heads"]], tensors["logits"], facts["seconds"])
        for tensors, facts in runs
    ]


def settings(epsilon: float) -> tuple[float, float]:
    """Learning rate and clip for a target."""
    return SETTINGS[max(e for e in SETTINGS if e <= epsilon)]
