"""Bounds that hold everywhere in the l-infinity ball: intervals, passed from layer to layer (Gowal et al. 2018).

An affine layer maps the centre of an interval as it maps a point, and its radius by the weights' absolute values; a
monotone layer maps the ends. What comes out contains whatever an attack could reach, and more.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.attacks.promises import check, check_classes
from labkit.workers import spread

MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)
REORDERING = (nn.PixelUnshuffle, nn.Flatten, nn.Identity)

FLOAT32 = 2.0**-24  # the most by which one operation is rounded, relatively
LEAST, GREATEST = 2.0**-126, 2.0**127  # what is smaller may become 0; a sum that may be greater is not bounded
PIXEL = 2.0**-23  # the most by which a float32 pixel leaves the ball, and is rounded when it is scaled


def certified(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Which images no perturbation within ``eps`` can turn: proved, not tried. Never more than survive any attack.

    Bounds are computed in float64 and widened by what float32 may round on the way (Higham 2002, section 3.1, for sums
    in any order), so they hold for the network as it runs in float32, and not only for the one on paper. They do not
    cover convolutions by fast transforms (Winograd, FFT), which cuDNN may choose on a GPU: a certificate is for the
    network as sums of products compute it, on a CPU or with ``torch.backends.cudnn.enabled = False``.

    Args:
        model: images in [0, 1] to logits; ``nn.Sequential``, or with a method ``layers()`` that lists what images pass
            through. Layers are linear, convolutions, monotone activations and reorderings, or have a method
            ``interval(centre, radius)`` of their own, which is believed: the radius that it returns has to cover what
            the layer rounds. The last one is linear.
        images: [N, ...] in [0, 1]; labels: [N] int64.
        eps: l-infinity radius on pixels, in [0, 1].

    Returns:
        bool [N].

    Raises:
        TypeError: a layer whose bounds are not known, as those of hooks and of a subclass's own ``forward`` are not; or
            a last one that is not linear.
        ValueError: images outside [0, 1] or not finite, labels that do not fit, eps out of range.
    """
    check(images, labels, eps)
    layers = passed(deepcopy(model).double().eval())
    if not _is(layers[-1], nn.Linear):
        raise TypeError(f"the last layer is {layers[-1]}: it must be nn.Linear; give the model a method layers()")

    if len(images):
        check_classes(layers[-1].out_features, labels)

    def proved(part: slice) -> Tensor:
        with torch.no_grad():  # a thread's own state
            worst = worst_logits(layers, images[part].double(), eps + PIXEL, labels[part], rounding=FLOAT32)
            others = worst.scatter(1, labels[part, None], -torch.inf)  # [n, C]
            return (others < 0).all(1)

    return torch.cat([labels.new_empty(0, dtype=torch.bool), *spread(proved, len(images), images.device)])


def passed(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, in the order in which images pass through them.

    Raises:
        TypeError: hooks, which may change what passes.
    """
    if model._forward_hooks or model._forward_pre_hooks:
        raise TypeError(f"{model} has hooks, whose bounds are not known; remove them")
    if type(model).forward is nn.Sequential.forward:
        return [layer for part in model for layer in passed(part)]
    listed = inspect.ismethod(getattr(model, "layers", None))
    return [inner for layer in model.layers() for inner in passed(layer)] if listed else [model]


def _is(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer computes what one of the kinds does: a subclass may have a ``forward`` of its own."""
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds)


def worst_logits(
    layers: Sequence[nn.Module], images: Tensor, eps: float | Tensor, labels: Tensor, rounding: float = 0.0
) -> Tensor:
    """The most by which each class's logit may exceed the true one's, anywhere in ball and box: [N, C], 0 for the true.

    The last layer is taken together with the difference of logits (Gowal et al. 2018, section 3): what raises both
    does not count.

    Args:
        layers: as :func:`passed` gives them; the last one is linear, with a weight [O, K], or [M, O, K] in a stack.
        images: [N, ...] in [0, 1]; labels: [N], negative where there is no example.
        eps: a number, or [N, 1, 1, 1].
        rounding: relative, of one operation; the bounds are widened by what it may add up to.
    """
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    centre, radius = (high + low) / 2, (high - low) / 2
    for layer in layers[:-1]:
        centre, radius = _through(layer, centre, radius, rounding)
    # Layers may keep their weights in bf16.
    weight, bias = (p if p is None else p.to(images.dtype) for p in (layers[-1].weight, layers[-1].bias))
    if weight.ndim == 2:
        weight, bias = weight[None], None if bias is None else bias[None]
    models, classes = weight.shape[:2]
    centre, radius = (part.unflatten(0, (models, -1)) for part in (centre, radius))  # [M, B, K]
    true = labels.clamp(min=0).view(models, -1, 1)  # [M, B, 1]
    logits = centre @ weight.mT  # [M, B, C]
    logits = logits if bias is None else logits + bias[:, None]
    # Of every pair of classes, once for all images: those with an image's own class would be C K numbers an image.
    apart = (weight[:, None] - weight[:, :, None]).abs().flatten(1, 2)  # [M, C C, K]
    reach = (radius @ apart.mT).unflatten(2, (classes, classes))  # [M, B, C, C], by class and other class
    worst = logits - logits.gather(2, true) + reach.take_along_dim(true[..., None], 2)[:, :, 0]  # [M, B, C]
    if rounding:
        size = (centre.abs() + radius) @ weight.abs().mT  # [M, B, C]
        size = size if bias is None else size + bias[:, None].abs()
        size = size + size.gather(2, true)
        worst = worst + _rounded(size, weight.shape[2], rounding)
    worst = worst.view(-1, classes)
    return worst.scatter(1, labels.clamp(min=0)[:, None], 0.0)


def _through(layer: nn.Module, centre: Tensor, radius: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Centre and radius of what comes out of a layer where inputs lie within ``radius`` of ``centre``."""
    if _is(layer, nn.Linear) or (_is(layer, nn.Conv2d) and layer.padding_mode == "zeros"):
        weight = layer.weight.abs()
        out, wide = layer(centre), _absolute(layer, radius, weight, None)
        if rounding:
            bias = None if layer.bias is None else layer.bias.abs()
            size = _absolute(layer, centre.abs() + radius, weight, bias)
            wide = wide + _rounded(size, weight[0].numel(), rounding)
        return out, wide
    if _is(layer, *MONOTONE) and getattr(layer, "negative_slope", 0.0) >= 0:
        low, high = layer(centre - radius), layer(centre + radius)
        return (high + low) / 2, (high - low) / 2 + rounding * _own(layer, low, high)
    if _is(layer, *REORDERING):
        return layer(centre), layer(radius)
    if hasattr(layer, "interval"):
        return layer.interval(centre, radius)
    raise TypeError(f"layer {layer} has no known bounds; give it a method interval(centre, radius)")


def _own(layer: nn.Module, low: Tensor, high: Tensor) -> Tensor | float:
    """By how many units of rounding a monotone layer is off itself: a choice by none, a product by its size."""
    if isinstance(layer, nn.ReLU):
        return 0.0
    if isinstance(layer, nn.LeakyReLU):
        return torch.maximum(low.abs(), high.abs())
    return 8.0  # a few of 1, which neither tanh nor the sigmoid exceeds


def _absolute(layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _rounded(size: Tensor, terms: int, rounding: float) -> Tensor:
    """Error of sums of so many products and a bias, of that size in all, in any order; more than it, for float64's own.

    Infinite where the sum may not be held by a float32.
    """
    error = 1.001 * (terms + 2) * (rounding * size + LEAST)
    return torch.where(size < GREATEST, error, torch.inf)
