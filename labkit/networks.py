"""Architectures of classifiers, and nothing else. Images in [0, 1] go in, logits come out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class CompactCNN(nn.Module):
    """A small convolutional network for 28x28 grey images.

    Three convolutions (no pooling, no normalisation that would mix examples, so that it can be trained with
    differential privacy) and two linear layers. Pixels are mapped to [-1, 1] inside, by constants that do not depend on
    the data and so cost no privacy. Each 2x2 block of pixels enters as four channels: the first layer then sees 6x6
    pixels as a strided convolution would, and its input gradient, which attacks need, costs a fifth of that one's.

    Args:
        channels: of the three convolutions.
        hidden: units of the first linear layer.
        classes: number of logits.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 64), hidden: int = 128, classes: int = 10):
        super().__init__()
        a, b, c = channels
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),  # [N, 4, 14, 14]
            nn.Conv2d(4, a, 3, padding=1),  # [N, a, 14, 14]
            nn.ReLU(),
            nn.Conv2d(a, b, 3, stride=2, padding=1),  # [N, b, 7, 7]
            nn.ReLU(),
            nn.Conv2d(b, c, 3, stride=2, padding=1),  # [N, c, 4, 4]
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(16 * c, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),  # [N, classes]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 1, 28, 28] in [0, 1] to logits [N, classes]."""
        found = self.features(2 * images - 1)  # [N, c, 4, 4]
        # Channels last, as convolutions leave them: in another order this, and its gradient, would be a copy.
        return self.head(found.permute(0, 2, 3, 1).flatten(1))


def build(seed: int) -> CompactCNN:
    """A fresh classifier whose weights depend on ``seed`` alone; the global random state is left alone."""
    with torch.device("meta"):  # a layer made elsewhere would draw its first weights from the global state
        model = CompactCNN()
    model.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Uniform within 1 / sqrt(fan-in), as torch draws them.
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=draw)
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.bias, -bound, bound, generator=draw)
    return model
