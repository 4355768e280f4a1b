"""Randomness of models that stand side by side: each draws from a generator of its own, as it would alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.device import generator


class Dice:
    """A generator for each of M models; what they draw is joined along the first axis.

    Args:
        seeds: M.
        names: the purpose; see :func:`labkit.device.generator`.
        device: where the draws are wanted.
    """

    def __init__(self, seeds: Sequence[int], *names: object, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generators = [generator(seed, *names, device=device) for seed in seeds]

    def uniform(self, count: int, *shape: int) -> Tensor:
        """``count`` draws [count, ...] from [0, 1), as many for each model."""
        share = count // len(self.generators)
        return torch.cat([torch.rand(share, *shape, generator=g, device=self.device) for g in self.generators])

    def normal(self, count: int, *shape: int) -> Tensor:
        """``count`` draws [count, ...] from N(0, 1), as many for each model."""
        share = count // len(self.generators)
        return torch.cat([torch.randn(share, *shape, generator=g, device=self.device) for g in self.generators])
