"""M networks of one architecture as one module: B images for each of M models go in, side by side.

A stack is called like any classifier, with images [M B, ...], of which the first B belong to the first model; so
attacks and rules need not know of it. Its parameters are one flat matrix theta [M, P], and so are its gradients.
Layers may compute with a copy of theta in a shorter type: autocast would make one for every forward pass, and pass
each gradient back through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Passed = tuple["StackedConv2d | StackedLinear", Tensor, Tensor]  # a layer, what went in, what came out
ALIGNED = 64  # numbers; rows of parameters are a multiple of so many apart
_TAPE: ContextVar[list[Passed] | None] = ContextVar("tape", default=None)  # of this thread


@contextmanager
def taped() -> Iterator[list[Passed]]:
    """A list of all layers with parameters that run inside, in this thread, with their inputs and outputs."""
    tape: list[Passed] = []
    token = _TAPE.set(tape)
    try:
        yield tape
    finally:
        _TAPE.reset(token)


class _Stacked(nn.Module):
    """A layer of M models: ``weight`` [M, ...], ``bias`` [M, O] or None, and the prefix of their names."""

    def __init__(self, prefix: str, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.prefix, self.weight, self.bias = prefix, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        out = self.one(x) if len(self.weight) == 1 else self.many(x)
        tape = _TAPE.get()
        if tape is not None:
            tape.append((self, x, out))
        return out

    def one(self, x: Tensor) -> Tensor:
        """The layer of a single model; an axis is squeezed, since the gradient of an index is a padded copy."""
        raise NotImplementedError

    def many(self, x: Tensor) -> Tensor:
        """The layer of several models."""
        raise NotImplementedError

    def absolute(self) -> _Stacked:
        """The same layer with its weights' absolute values and no bias: what it does to the radius of an interval."""
        raise NotImplementedError

    def interval(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and radius of what comes out where inputs lie within ``radius`` of ``centre``."""
        return self(centre), self.absolute()(radius)

    def positions(self, x: Tensor) -> Tensor:
        """What the weights are multiplied with, at each of T positions: [M B, ...] to [M B, T, K]."""
        raise NotImplementedError

    def as_weight(self, flat: Tensor) -> Tensor:
        """M O K numbers, K in the order of :meth:`positions`, in the order of the weight: [M, O, ...]."""
        raise NotImplementedError


class StackedLinear(_Stacked):
    """M linear layers: [M B, I] to [M B, O]."""

    def one(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.squeeze(0), None if self.bias is None else self.bias.squeeze(0))

    def many(self, x: Tensor) -> Tensor:
        x, w = x.unflatten(0, (len(self.weight), -1)), self.weight.mT  # [M, B, I], [M, I, O]
        out = x @ w if self.bias is None else torch.baddbmm(self.bias[:, None], x, w)
        return out.flatten(0, 1)

    def absolute(self) -> StackedLinear:
        return StackedLinear(self.prefix, self.weight.abs(), None)

    def positions(self, x: Tensor) -> Tensor:
        return x[:, None]

    def as_weight(self, flat: Tensor) -> Tensor:
        return flat.view(self.weight.shape)


class StackedConv2d(_Stacked):
    """M convolutions: [M B, I, H, W] to [M B, O, H', W']; several models as one batched matrix product."""

    def __init__(self, prefix: str, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d | StackedConv2d):
        super().__init__(prefix, weight, bias)
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding

    def one(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.squeeze(0)
        x = x.contiguous(memory_format=torch.channels_last)
        out = F.conv2d(x, self.weight.squeeze(0), bias, self.stride, self.padding)
        # With one channel both orders look alike, and the other one comes out: pooling it takes ten times as long.
        return out.contiguous(memory_format=torch.channels_last)

    def many(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        high, wide = ((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sides)
        seen = self.positions(x).reshape(len(self.weight), -1, self.weight[0, 0].numel())  # [M, B H' W', K]
        w = self.weight.permute(0, 3, 4, 2, 1).flatten(1, 3)  # [M, K, O]
        out = seen @ w if self.bias is None else torch.baddbmm(self.bias[:, None], seen, w)  # [M, B H' W', O]
        return out.view(len(x), high, wide, -1).permute(0, 3, 1, 2)

    def absolute(self) -> StackedConv2d:
        return StackedConv2d(self.prefix, self.weight.abs(), None, self)

    def positions(self, x: Tensor) -> Tensor:
        """T = H' W', K over the kernel, then channels: channels last make this a copy of long runs.

        Measured on a CPU, it takes half the time of ``F.unfold``.
        """
        (high, wide), (down, across) = self.padding, self.stride
        x = F.pad(x, (wide, wide, high, high)).permute(0, 2, 3, 1)  # [M B, H, W, I]
        windows = x.unfold(1, self.kernel_size[0], down).unfold(2, self.kernel_size[1], across)  # [.., H', W', I, k, k]
        windows = windows.permute(0, 1, 2, 4, 5, 3)
        return windows.reshape(len(x), windows.shape[1] * windows.shape[2], -1)

    def as_weight(self, flat: Tensor) -> Tensor:
        models, out, inside, *kernel = self.weight.shape
        return flat.view(models, out, *kernel, inside).permute(0, 1, 4, 2, 3)


def _aligned(rows: Tensor) -> Tensor:
    """A copy of [M, P], each row as well aligned as the first: elsewhere kernels are slower, or sum in other orders."""
    size = rows.shape[1]
    wide = rows.new_empty(len(rows), math.ceil(size / ALIGNED) * ALIGNED)[:, :size]
    return wide.copy_(rows)


class Stack(nn.Module):
    """M networks of one architecture.

    Args:
        networks: M modules that differ in their parameters only, which are in ``nn.Linear`` and ``nn.Conv2d`` layers
            without groups or dilation and with numeric zero padding. Nothing in them mixes examples.
        device: where the stack is to run.
        dtype: what the layers' weights are kept in; by default what the networks' are.

    Attributes:
        theta: [M, P], all parameters, in the networks' own type.
        age: [M, 1], the share of each model's training that is over, in [0, 1]; the training loop sets it.

    Raises:
        TypeError: a layer of another kind has parameters.
    """

    def __init__(
        self, networks: Sequence[nn.Module], device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ):
        rows = [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]
        theta = _aligned(torch.stack(rows).to(device))  # [M, P]
        kept = _aligned(theta.to(dtype)) if dtype not in (None, theta.dtype) else theta
        self._lay_out(networks[0], theta, kept, theta.new_zeros(len(networks), 1))

    def _lay_out(self, plain: nn.Module, theta: Tensor, kept: Tensor, age: Tensor) -> None:
        super().__init__()
        self._plain = (plain,)  # out of sight: it is no module of the stack
        self.shapes = {name: p.shape for name, p in plain.named_parameters()}
        self.theta, self._kept, self.age = theta, kept, age
        self.leaves = {name: part.requires_grad_() for name, part in self.unflatten(kept).items()}
        self.network = deepcopy(plain).to(theta.device)
        swapped: dict[nn.Module, nn.Module] = {}  # a layer that is used twice is one layer still
        for name, layer in list(self.network.named_modules(remove_duplicate=False)):
            if any(True for _ in layer.parameters(recurse=False)):
                swapped[layer] = swapped.get(layer) or self._stacked(name, layer)
                if name:
                    self.network.set_submodule(name, swapped[layer])
                else:
                    self.network = swapped[layer]

    def __len__(self) -> int:
        return len(self.theta)

    def _stacked(self, name: str, layer: nn.Module) -> nn.Module:
        prefix = f"{name}." if name else ""
        leaves = self.leaves.get(f"{prefix}weight"), self.leaves.get(f"{prefix}bias")
        if isinstance(layer, nn.Linear):
            return StackedLinear(prefix, *leaves)
        if (
            isinstance(layer, nn.Conv2d)
            and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
            and not isinstance(layer.padding, str)
        ):
            return StackedConv2d(prefix, *leaves, layer)
        raise TypeError(
            f"layer {name!r} ({layer}) has parameters, and how to stack it is known only for nn.Linear and nn.Conv2d "
            "without groups or dilation and with numeric zero padding; use those"
        )

    def alone(self) -> list[Stack]:
        """Each of the M models as a stack of its own, whose parameters are a row of this one's and move with them."""
        parts = []
        for m in range(len(self)):
            parts.append(Stack.__new__(Stack))
            parts[m]._lay_out(self._plain[0], self.theta[m : m + 1], self._kept[m : m + 1], self.age[m : m + 1])
        return parts

    def forward(self, images: Tensor) -> Tensor:
        """Images [M B, ...] to logits [M B, C]."""
        return self.network(images)

    def renew(self) -> None:
        """To be called when theta has moved: the layers' weights are theta again."""
        if self._kept is not self.theta:
            self._kept.copy_(self.theta)

    def gradient(self, loss: Tensor) -> Tensor:
        """Of a sum over all models' losses with respect to each one's own parameters: [M, P]."""
        return self.flatten(torch.autograd.grad(loss, list(self.leaves.values()))).to(self.theta.dtype)

    def flatten(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors [M, ...] in the order of the parameters to one [M, P]."""
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """[M, P] to views [M, ...] by parameter name."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat.detach().split(sizes, dim=1)
        return {name: p.view(len(flat), *s) for (name, s), p in zip(self.shapes.items(), parts, strict=True)}

    def states(self, theta: Tensor | None = None) -> list[dict[str, Tensor]]:
        """One dictionary of parameters a model, as its network's ``state_dict`` has them; views of ``theta`` [M, P]."""
        parts = self.unflatten(self.theta if theta is None else theta)
        return [{name: part[m] for name, part in parts.items()} for m in range(len(self))]
