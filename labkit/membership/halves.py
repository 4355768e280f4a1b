"""Who trains on what: random halves of the pool, a coin for every image and model."""

from __future__ import annotations

import torch
from torch import Tensor


def halves(models: int, images: int, generator: torch.Generator) -> Tensor:
    """Membership of ``models`` models on a pool, each trained on its own random half.

    A fair coin is tossed for each image and model, so one image is in or out with all the others as they are: the
    neighbours of differential privacy. Halves of a fixed size would put another image in its place. Balancing the
    columns (every image IN for exactly half of the models) would look tidier and be wrong: when a model is left out
    as the target, the number of its shadows that saw an image would then reveal whether the target saw it, and an
    attack on a model that never saw the data would not score 0.5.

    Args:
        models: M, at least 4.
        images: N, at least 2.
        generator: on the CPU.

    Returns:
        bool [M, N], about half of them True.

    Raises:
        ValueError: too few models or images.
    """
    if models < 4 or images < 2:
        raise ValueError(f"models = {models}, images = {images}: need at least 4 models and 2 images")
    return torch.rand(models, images, generator=generator) < 0.5
