"""Each example's gradient, clipped, and summed: the inner step of DP-SGD, without a loop over examples.

A layer's weight gradient for one example is a matrix product over its T positions of what came back and what went
in: g a, with g [O, T] and a [T, K]. Its norm is wanted twice: to clip by, and in the sum. Where T is small, the norm
comes from two T x T Gram matrices, |g a|^2 = <a a', g' g>, and no gradient of an example is ever made (Goodfellow
2015 for linear layers, T = 1; Bu, Mao and Xu 2022, section 3, for convolutions). Elsewhere it is made and kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.data import Split
from labkit.training.stack import Stack, StackedConv2d, StackedLinear, taped
from labkit.workers import spread


@dataclass(frozen=True)
class Examples:
    """Each example's gradient, layer by layer, in the form in which it was cheapest to have.

    Attributes:
        layers: L, in the order of the forward pass.
        weights: L, a pair of a [M B, T, K] and g [M B, O, T], or their product [M B, O, K].
        biases: L, [M B, O].
        squared: [M B], the squared l2 norm over all parameters together.
    """

    layers: list[StackedConv2d | StackedLinear]
    weights: list[tuple[Tensor, Tensor] | Tensor]
    biases: list[Tensor]
    squared: Tensor


@torch.no_grad()
def examples(stack: Stack, images: Tensor, labels: Tensor) -> Examples:
    """Every example's cross-entropy gradient.

    Args:
        stack: M models, no layer of which is used twice in a forward pass.
        images: [M B, ...]; labels: [M B], -100 for an example that is none and whose gradient is zero.

    Raises:
        TypeError: a layer is used twice.
    """
    with torch.enable_grad(), taped() as tape:
        loss = F.cross_entropy(stack(images), labels, reduction="sum")
    names = [layer.prefix for layer, _, _ in tape]
    if len(set(names)) < len(names):
        raise TypeError(f"layers are used twice in a forward pass: {names}; their gradients cannot be told apart")
    backs = torch.autograd.grad(loss, [output for _, _, output in tape])

    squared = stack.theta.new_zeros(len(images))  # [M B]
    weights: list[tuple[Tensor, Tensor] | Tensor] = []
    biases: list[Tensor] = []
    for (layer, x, _), back in zip(tape, backs, strict=True):
        a, g = layer.positions(x), back.flatten(2) if back.ndim > 2 else back[..., None]  # [M B, T, K], [M B, O, T]
        t, k, o = a.shape[1], a.shape[2], g.shape[1]
        if 2 * t * (k + o) <= k * o:  # twice: two small products use a processor less well than one large one
            squared += ((a @ a.mT) * (g.mT @ g)).sum((1, 2))
            weights.append((a, g))
        else:
            weights.append(g @ a)  # [M B, O, K]
            squared += torch.linalg.vector_norm(weights[-1], dim=(1, 2)).square()
        biases.append(g.sum(2))  # [M B, O]
        if layer.bias is not None:
            squared += biases[-1].square().sum(1)
    return Examples([layer for layer, _, _ in tape], weights, biases, squared)


@torch.no_grad()
def clipped_sum(stack: Stack, images: Tensor, labels: Tensor, clip: float) -> Tensor:
    """Sum over a model's examples of each one's cross-entropy gradient, scaled to l2 norm ``clip`` where it is longer.

    The norm is over all parameters together. Adding or removing an example changes a model's row by at most
    ``clip`` in l2 norm: the sensitivity that DP-SGD's noise is calibrated to.

    Args:
        stack, images, labels: as for :func:`examples`.
        clip: positive.

    Returns:
        [M, P], in the order of the stack's parameters.

    Raises:
        TypeError: a layer is used twice.
    """
    found = examples(stack, images, labels)
    models = len(stack)
    weight = (clip / found.squared.sqrt().clamp(min=1e-12)).clamp(max=1)  # [M B]

    total: dict[str, Tensor] = {}
    for layer, kept, bias in zip(found.layers, found.weights, found.biases, strict=True):
        if isinstance(kept, tuple):
            a, g = kept
            g = (weight[:, None, None] * g).unflatten(0, (models, -1)).transpose(1, 2).flatten(2)  # [M, O, B T]
            summed = g @ a.reshape(models, -1, a.shape[2])  # [M, O, K]
        else:
            summed = weight.view(models, 1, -1) @ kept.view(models, -1, kept.shape[1:].numel())  # [M, 1, O K]
        total[f"{layer.prefix}weight"] = layer.as_weight(summed)
        if layer.bias is not None:
            total[f"{layer.prefix}bias"] = weight.view(models, 1, -1) @ bias.view(models, -1, bias.shape[1])
    return stack.flatten([total[name] for name in stack.shapes])


def gradient_norms(model: nn.Module, split: Split) -> Tensor:
    """The l2 norm of each example's cross-entropy gradient over all parameters of one model: [N] float32, on the CPU.

    What a white-box attacker reads off a model: members tend to have smaller ones (Nasr, Shokri and Houmansadr 2019).

    Args:
        model: as :class:`Stack` takes it.
        split: images and labels, on the model's device.

    Raises:
        TypeError: a layer with parameters of a kind that :class:`Stack` does not know, or one that is used twice.
    """
    device = split.labels.device
    stack = Stack([model], device)

    def norms(part: slice) -> Tensor:
        images, labels = split.batch(torch.arange(part.start, part.stop))
        return examples(stack, images, labels).squared.sqrt().cpu()

    return torch.cat(spread(norms, len(split), device))
