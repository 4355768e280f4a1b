"""What a CVAE gives away about its training images: the reconstruction attack, on single records and on sets.

Hilprecht, Haerterich and Bernau (2019, "Monte Carlo and Reconstruction Membership Inference Attacks against
Generative Models", the reconstruction attack) encode a record, decode many latent draws, and call it a member where
the mean reconstruction error is small; Chen et al. (2020, "GAN-Leaks") give the same family for white-box generators.
The attacker holds the model, and the record with its label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from labkit.generative.cvae import elbo_terms, entropy, reconstruct
from labkit.generative.networks import CVAE
from labkit.intervals import LEVEL, bootstrap

# Pairs of sets tried for one estimate of the set attack: with more images a set both the sampling error of the
# images and the cost of a try grow, so fewer are enough.
TRIES, LEAST_TRIES = 100_000, 1_000


@dataclass(frozen=True)
class Scores:
    """How well a model explains each image; on the CPU, float32.

    Attributes:
        bce: [L, N], reconstruction cross-entropy in nats an image, one row a latent draw.
        kl: [N], KL term in nats an image.
        mse: [N], squared error a pixel of the reconstruction from the latent mean.
        entropy: [N], the least cross-entropy that any model can reach on the grey image, in nats.
    """

    bce: Tensor
    kl: Tensor
    mse: Tensor
    entropy: Tensor

    @property
    def elbo(self) -> Tensor:
        """Evidence lower bound, [N], in nats an image."""
        return -(self.bce.mean(0) + self.kl)

    @property
    def attacks(self) -> dict[str, Tensor]:
        """Membership scores [N] by the attack's name, higher for "member".

        ``reconstruction`` is the Monte Carlo reconstruction attack on the part of the cross-entropy that the
        model answers for: the image's own entropy is the same under every model, so it tells nothing about
        membership and only adds noise. ``reconstruction_bce`` keeps it. ``reconstruction_mse`` takes the latent
        mean alone, ``elbo`` the whole bound, less the entropy too.
        """
        bce = self.bce.mean(0)
        return {
            "reconstruction": self.entropy - bce,
            "reconstruction_bce": -bce,
            "reconstruction_mse": -self.mse,
            "elbo": self.entropy - bce - self.kl,
        }


@torch.no_grad()
def score(model: CVAE, images: Tensor, labels: Tensor, *, samples: int = 8, seed: int = 0) -> Scores:
    """Score images [N, 1, 28, 28] in [0, 1] paired with their labels [N], in float32, with ``samples`` draws each."""
    bce, kl = elbo_terms(model, images, labels, seed=seed, samples=samples)
    mse = (reconstruct(model, images, labels) - images).square().flatten(1).mean(1)
    return Scores(bce.cpu(), kl.cpu(), mse.cpu(), entropy(images).cpu())


def gap(errors: Tensor, members: Tensor) -> tuple[float, tuple[float, float]]:
    """Mean error OUT less mean error IN, with Welch's 95 % interval over images.

    Args:
        errors: [N]; members: bool [N], with two or more of each kind.
    """
    inside, outside = (errors[part].double().numpy() for part in (members, ~members))
    test = stats.ttest_ind(outside, inside, equal_var=False)
    interval = test.confidence_interval(LEVEL)
    return float(outside.mean() - inside.mean()), (float(interval.low), float(interval.high))


def set_accuracy(
    scores: Tensor, members: Tensor, sizes: Sequence[int], *, seed: int, resamples: int = 200
) -> list[tuple[float, tuple[float, float]]]:
    """Set membership (after Hilprecht et al. 2019): of two sets of n images, one IN and one OUT, which is IN?

    The attacker names the set with the higher mean score; chance is one half, and with n = 1 it is the AUC.

    Args:
        scores: [N], higher for "member"; members: bool [N].
        sizes: images a set, each at most the smaller half.
        seed: of the sets drawn, and of the bootstrap over images.
        resamples: of the bootstrap.

    Returns:
        For each size the fraction of right answers and its 95 % bootstrap interval.

    Raises:
        ValueError: a size that the halves do not hold.
    """
    s, truth = scores.double().numpy(), members.numpy()
    most = min(truth.sum(), (~truth).sum())
    if bad := [size for size in sizes if not 1 <= size <= most]:
        raise ValueError(f"set sizes {bad}: need 1 to {most}, the images of the smaller half")

    def right(indices: np.ndarray, size: int, rng: np.random.Generator) -> float:
        values, inside = s[indices], truth[indices]
        shape = (max(TRIES // size, LEAST_TRIES), size)
        ours = rng.choice(values[inside], shape).mean(1)  # [T]
        theirs = rng.choice(values[~inside], shape).mean(1)  # [T]
        return float((ours > theirs).mean() + (ours == theirs).mean() / 2)

    found = []
    for size in sizes:
        rng = np.random.default_rng((seed, size))
        value = np.mean([right(np.arange(len(s)), size, rng) for _ in range(10)])
        low, high = bootstrap(lambda i, size=size, rng=rng: right(i, size, rng), len(s), seed, resamples=resamples)
        # Where nearly every try succeeds, the resamples' rounded rates can all lie on one side of the estimate.
        found.append((float(value), (min(low, float(value)), max(high, float(value)))))
    return found


def verdict(auc: Mapping[str, Any]) -> str:
    """What an AUC's row, with its interval and n, says about chance (0.5): the end of a sentence on the attack."""
    if auc["low"] > 0.5:
        return "beats chance"
    if auc["high"] < 0.5:
        return "falls below chance, as a sound attack does only by accident"
    return f"cannot be told from chance with {auc['n']:,} images"
