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
            columns = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # [B, K, L]
            g = backs[name] = g.flatten(2)  # [B, O, L]
            each[name] = g @ columns.transpose(1, 2)  # [B, O, K]
            squared += each[name].square().sum((1, 2))
            g = g.sum(2)  # [B, O], the bias's gradient
        if layer.bias is not None:
            squared += g.square().sum(1)
    weight = (clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1)  # [B]

    total: dict[str, Tensor] = {}
    for name in names:
        layer, a, g = layers[name], inputs[name], backs[name]
        if name in each:
            total[f"{name}.weight"] = (weight @ each[name].flatten(1)).view(layer.weight.shape)
            g = g.sum(2)
        else:
            total[f"{name}.weight"] = (weight[:, None] * g).T @ a
        if layer.bias is not None:
            total[f"{name}.bias"] = weight @ g
    return total


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers with parameters, by name; all must be of a kind whose per-example gradient is known here."""
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        known = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if not known or isinstance(getattr(module, "padding", 0), str):
            raise TypeError(
                f"layer {name!r} ({module}) has parameters, and per-example gradients are known only for nn.Linear and "
                "nn.Conv2d without groups and with numeric padding; use those"
            )
        layers[name] = module
    return layers
