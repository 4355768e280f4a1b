"""Architectures of classifiers, and nothing else. Images in [0, 1] go in, logits come out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CompactCNN(nn.Module):
    """A small convolutional network for 28x28 grey images.

    Three strided convolutions (no pooling, no normalisation that would mix examples, so that it can be
    trained with differential privacy) and two linear layers. Pixels are mapped to [-1, 1] inside, by
    constants that do not depend on the data and so cost no privacy.

    Args:
        channels: of the three convolutions.
        hidden: units of the first linear layer.
        classes: number of logits.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 64), hidden: int = 128, classes: int = 10):
        super().__init__()
        a, b, c = channels
        self.features = nn.Sequential(
            nn.Conv2d(1, a, 5, stride=2, padding=2),  # [N, a, 14, 14]
            nn.ReLU(),
            nn.Conv2d(a, b, 3, stride=2, padding=1),  # [N, b, 7, 7]
            nn.ReLU(),
            nn.Conv2d(b, c, 3, stride=2, padding=1),  # [N, c, 4, 4]
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Flatten(),  # [N, 16 c]
            nn.Linear(16 * c, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),  # [N, classes]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 1, 28, 28] in [0, 1] to logits [N, classes]."""
        return self.head(self.features(2 * images - 1))


def build(seed: int) -> CompactCNN:
    """A fresh classifier whose weights depend on ``seed`` alone; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        return CompactCNN()
