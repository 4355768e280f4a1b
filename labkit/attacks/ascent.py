"""Steps up a loss: what FGSM, PGD and adversarial training share. It knows nothing of the other attacks.

Trained models are stored under the source of this module too; an attack that training does not use lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float | Tensor,
    steps: int,
    step_size: float | Tensor,
    start: Tensor,
) -> Tensor:
    """Sign steps up the cross-entropy, projected on ball and box.

    ``eps`` and ``step_size`` are numbers, or tensors [N, 1, 1, 1] with one for each image.
    """
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    x = start.detach()
    for _ in range(steps):
        x = (x + step_size * input_gradient(model, x, labels).sign()).clamp(low, high)
    return x


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's own cross-entropy with respect to its pixels, shaped as ``images``."""
    return slope(model, images, lambda logits: F.cross_entropy(logits, labels, reduction="none"))[2]


def slope(model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, C], each image's own loss [N], and its gradient with respect to the pixels.

    Args:
        loss: logits [N, C] to a loss an image, [N].
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = model(x)
        losses = loss(logits)
        if not losses.requires_grad:  # a model that cannot be differentiated has no slope anywhere
            return logits, losses, torch.zeros_like(images)
        # The sum, not the mean: an image's gradient must not shrink with the batch it is in.
        gradient = torch.autograd.grad(losses.sum(), x, materialize_grads=True)[0]
        # Where the loss has no slope (0 / 0 in the model), the attack stays where it is.
        return logits.detach(), losses.detach(), gradient.nan_to_num(0.0)
