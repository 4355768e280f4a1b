"""The speed run's network, and the optimiser that goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.data import Split

PATCH = 3  # pixels, the side of what the first layer sees
RIDGE = 1e-4  # added to the patches' variances: directions that hold next to nothing are not blown up


class Block(nn.Module):
    """Two 3x3 convolutions that halve the image's side, batch norm after each without a scale of its own."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs, momentum=0.4) for _ in range(2))
        for norm in self.norms:
            norm.weight.requires_grad_(False)  # the next layer scales

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](F.max_pool2d(self.first(x), 2)))  # [B, outputs, H / 2, W / 2]
        return F.relu(self.norms[1](self.second(x)))


class SpeedNet(nn.Module):
    """Whitened 3x3 patches, three blocks, a linear layer: after Jordan (2024), "94% on CIFAR-10 in 3.29 seconds".

    Args:
        widths: channels of the three blocks.
        classes: number of logits.
    """

    def __init__(self, widths: tuple[int, int, int], classes: int = 10):
        super().__init__()
        seen = 2 * PATCH**2
        self.patches = nn.Conv2d(1, seen, PATCH).requires_grad_(False)  # set by whiten
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip((seen, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, 28, 28] in [0, 1] to logits [B, classes]."""
        x = F.relu(self.patches(images))  # [B, 18, 26, 26]
        x = F.max_pool2d(self.blocks(x), 3).flatten(1)  # [B, widths[-1]]
        return self.head(x) / math.sqrt(x.shape[1])

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Let the first layer's outputs be uncorrelated, of mean 0 and variance 1, and each there with both signs."""
        patches = F.unfold(images, PATCH).movedim(1, 2).flatten(0, 1)  # [P, 9]
        mean = patches.mean(0)
        scales, axes = torch.linalg.eigh(torch.cov(patches.T))  # [9], [9, 9]: an axis a column
        weight = (axes / (scales + RIDGE).sqrt()).T  # [9, 9]
        weight = torch.cat([weight, -weight])  # [18, 9]
        self.patches.weight.copy_(weight.view_as(self.patches.weight))
        self.patches.bias.copy_(-weight @ mean)


def build(widths: tuple[int, int, int], split: Split, seed: int) -> SpeedNet:
    """A fresh network for the split's images, on their device; weights depend on it and on the seed alone."""
    with torch.device("meta"):  # a layer made elsewhere would draw its first weights from the global state
        net = SpeedNet(widths)
    net.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()  # ones and zeros
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=draw)
    for block in net.blocks:
        for layer in (block.first, block.second):
            nn.init.dirac_(layer.weight.data[: layer.in_channels])  # the first filters hand on what they get
    net.to(split.pixels.device, memory_format=torch.channels_last)
    net.whiten(split.pixels[:5000].float() / 255)
    return net


# Of convolutions (4 axes), the linear layer (2) and batch norm's shifts (1).
PEAK = {4: 0.2, 2: 5.0, 1: 20.0}  # learning rates
MOMENTUM = {4: 0.6, 2: 0.85, 1: 0.85}
DECAY = 1e-3  # of all but convolutions, a step at peak


class Muon:
    """Muon on convolutions (Jordan et al. 2024), SGD on the rest; both with Nesterov's momentum.

    A convolution's update is its momentum with all singular values brought near 1; its weights are kept at one norm,
    since batch norm makes their scale idle. All in place on tensors that stay where they are: a step can be captured.

    Args:
        net: whose weights [P tensors] are moved.
    """

    def __init__(self, net: SpeedNet):
        self.weights = [weight for weight in net.parameters() if weight.requires_grad]
        self.velocities = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], share: Tensor) -> None:
        """Move along ``gradients`` at ``share`` [1] of the peak learning rates."""
        for weight, velocity, gradient in zip(self.weights, self.velocities, gradients, strict=True):
            momentum, rate = MOMENTUM[weight.ndim], share * PEAK[weight.ndim]
            velocity.mul_(momentum).add_(gradient)
            ahead = gradient + momentum * velocity
            if weight.ndim == 4:
                weight.mul_(math.sqrt(len(weight)) / weight.norm())
                weight.sub_(rate * orthogonal(ahead.flatten(1)).view_as(weight))
            else:
                weight.mul_(1 - share * DECAY).sub_(rate * ahead)


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Singular values of [R, C] moved towards 1 by Newton-Schulz steps in bf16, singular vectors kept.

    The quintic's coefficients are those of Jordan et al. (2024): steep at 0, and not exact at 1. A few steps bring all
    but the smallest values to between about 0.7 and 1.2.
    """
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    x = x.T if len(matrix) > matrix.shape[1] else x
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)
