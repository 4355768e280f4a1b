"""Architectures of classifiers, and nothing else. Images in [0, 1] go in, logits come out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Pixels from [0, 1] to ``black`` and up to 2 above it: fixed numbers, for which no image is looked at.

    Args:
        black: what a black pixel becomes; at -1 the greys lie around 0.
    """

    def __init__(self, black: float = -1.0):
        super().__init__()
        self.black = black

    def extra_repr(self) -> str:
        return f"black={self.black:g}"

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images + self.black

    def interval(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Of images within ``radius`` of ``centre``; see :mod:`labkit.bounds`."""
        return self(centre), 2 * radius


class ChannelsLast(nn.Module):
    """[N, C, H, W] to [N, H W C], as convolutions leave them; in another order this, and its gradient, would copy."""

    def forward(self, found: Tensor) -> Tensor:
        return found.permute(0, 2, 3, 1).flatten(1)

    def interval(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the new order."""
        return self(centre), self(radius)


class CompactCNN(nn.Module):
    """A small convolutional network for 28x28 grey images.

    Three convolutions (no pooling, no normalisation that would mix examples, so that it can be trained with
    differential privacy) and two linear layers. Each 2x2 block of pixels enters as four channels: the first layer then
    sees 6x6 pixels as a strided convolution would, and its input gradient, which attacks need, costs a fifth of that
    one's.

    Args:
        channels: of the three convolutions.
        hidden: units of the first linear layer.
        classes: number of logits.
        activation: between layers.
        black: as for :class:`Scale`.
    """

    def __init__(
        self,
        channels: tuple[int, int, int] = (32, 64, 64),
        hidden: int = 128,
        classes: int = 10,
        activation: type[nn.Module] = nn.ReLU,
        black: float = -1.0,
    ):
        super().__init__()
        a, b, c = channels
        self.scale, self.flat = Scale(black), ChannelsLast()
        self.features = nn.Sequential(
            nn.PixelUnshuffle(2),  # [N, 4, 14, 14]
            nn.Conv2d(4, a, 3, padding=1),  # [N, a, 14, 14]
            activation(),
            nn.Conv2d(a, b, 3, stride=2, padding=1),  # [N, b, 7, 7]
            activation(),
            nn.Conv2d(b, c, 3, stride=2, padding=1),  # [N, c, 4, 4]
            activation(),
        )
        self.head = nn.Sequential(
            nn.Linear(16 * c, hidden),
            activation(),
            nn.Linear(hidden, classes),  # [N, classes]
        )

    def layers(self) -> list[nn.Module]:
        """What the images pass through, in order."""
        return [self.scale, *self.features, self.flat, *self.head]

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 1, 28, 28] in [0, 1] to logits [N, classes]."""
        for layer in self.layers():
            images = layer(images)
        return images


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def build(
    seed: int, *, width: float = 1, hidden: int = 128, activation: str = "relu", black: float = -1.0
) -> CompactCNN:
    """A fresh classifier whose weights depend on ``seed`` alone; the global random state is left alone.

    Args:
        seed: determines the weights.
        width: convolutions have so many times the channels of the default's 32, 64, 64.
        hidden: units of the first linear layer, where most parameters lie and few operations: 0.19 M at width 1, 0.59 M
            with 512 units, and 48 K at width 0.5 with 64.
        activation: one of ``ACTIVATIONS``.
        black: as for :class:`Scale`.
    """
    a, b, c = (round(size * width) for size in (32, 64, 64))
    with torch.device("meta"):  # a layer made elsewhere would draw its first weights from the global state
        model = CompactCNN((a, b, c), hidden, activation=ACTIVATIONS[activation], black=black)
    model.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Uniform within 1 / sqrt(fan-in), as torch draws them.
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=draw)
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.bias, -bound, bound, generator=draw)
    return model
