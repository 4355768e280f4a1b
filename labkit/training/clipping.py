"""Each example's gradient, clipped, and summed: the inner step of DP-SGD, without a loop over examples.

A layer's gradient for one example is a product of what went in and what came back. For a linear layer its norm is
the product of two norms (Goodfellow 2015), so nothing of the weight's size is stored per example. For a
convolution it is one matrix product an example, over the layer's unfolded input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def clipped_sum(model: nn.Module, images: Tensor, labels: Tensor, clip: float) -> dict[str, Tensor]:
    """Sum over examples of each one's cross-entropy gradient, scaled down to l2 norm ``clip`` where it is longer.

    The norm is over all parameters together. Adding or removing an example changes the result by at most
    ``clip`` in l2 norm: the sensitivity that DP-SGD's noise is calibrated to.

    Args:
        model: parameters in ``nn.Linear`` and ``nn.Conv2d`` layers only, each used once a forward pass, and no layer
            that mixes examples.
        images: [B, ...]; labels: [B], B at least 1.
        clip: positive.

    Returns:
        By parameter name, shaped as the parameter.

    Raises:
        TypeError: a layer of another kind has parameters, or a convolution has groups.
    """
    layers = _layers(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if name in inputs:
                raise TypeError(f"layer {name!r} is used twice in a forward pass; its gradients cannot be told apart")
            inputs[name], outputs[name] = args[0].detach(), output

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            loss = F.cross_entropy(model(images), labels, reduction="sum")
    finally:
        for handle in handles:
            handle.remove()
    names = list(outputs)
    backs = dict(zip(names, torch.autograd.grad(loss, [outputs[n] for n in names]), strict=True))

    each: dict[str, Tensor] = {}  # gradients that are stored per example
    squared = torch.zeros(len(images), device=images.device)  # [B]
    for name in names:
        layer, a, g = layers[name], inputs[name], backs[name]
        if isinstance(layer, nn.Linear):  # a: [B, I], g: [B, O]
            squared += a.square().sum(1) * g.square().sum(1)
        else:  # a: [B, I, H, W], g: [B, O, H', W']
            each[name] = g.flatten(2) @ _patches(a, layer)  # [B, O, K]
            squared += torch.linalg.vector_norm(each[name], dim=(1, 2)).square()
            g = backs[name] = g.sum((2, 3))  # [B, O], the bias's gradient
        if layer.bias is not None:
            squared += g.square().sum(1)
    weight = (clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1)  # [B]

    total: dict[str, Tensor] = {}
    for name in names:
        layer, a, g = layers[name], inputs[name], backs[name]
        if name in each:
            out, inside, *kernel = layer.weight.shape
            total[f"{name}.weight"] = (weight @ each[name].flatten(1)).view(out, *kernel, inside).permute(0, 3, 1, 2)
        else:
            total[f"{name}.weight"] = (weight[:, None] * g).T @ a
        if layer.bias is not None:
            total[f"{name}.bias"] = weight @ g
    return total


def _patches(a: Tensor, layer: nn.Conv2d) -> Tensor:
    """What each output pixel of a convolution saw: [B, I, H, W] to [B, H' W', K], K running over kernel, then channels.

    Channels last make this a copy of long runs: measured on a CPU, half the time of ``F.unfold``.
    """
    (high, wide), (down, across) = layer.padding, layer.stride
    a = F.pad(a, (wide, wide, high, high)).permute(0, 2, 3, 1)  # [B, H, W, I]
    windows = a.unfold(1, layer.kernel_size[0], down).unfold(2, layer.kernel_size[1], across)  # [B, H', W', I, k, k]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(len(a), windows.shape[1] * windows.shape[2], -1)


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers with parameters, by name; all must be of a kind whose per-example gradient is known here."""
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        known = isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d)
            and (module.groups, module.dilation, module.padding_mode) == (1, (1, 1), "zeros")
            and not isinstance(module.padding, str)
        )
        if not known:
            raise TypeError(
                f"layer {name!r} ({module}) has parameters, and per-example gradients are known only for nn.Linear and "
                "nn.Conv2d without groups or dilation and with numeric zero padding; use those"
            )
        layers[name] = module
    return layers
