"""The loops that a user would write first: a DataLoader, an eager step, ``.item()`` after each; all cores on each step.

And the network of labkit's predecessor: three 3x3 convolutions of 32, 64 and 128 channels, two max-pools, dropout, two
linear layers; 1.70 M parameters, 61 MFLOP an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import ToTensor

from labkit.data import Split


class Images(Dataset):
    """What torchvision's FashionMNIST does for an item: a PIL image, turned into a tensor."""

    def __init__(self, split: Split):
        self.pixels, self.labels, self.transform = split.pixels.cpu().numpy()[:, 0], split.labels.tolist(), ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def tensors(split: Split) -> TensorDataset:
    """The images as tensors already: a kinder start for the loop."""
    return TensorDataset(split.images.cpu(), split.labels.cpu())


def predecessor() -> nn.Module:
    """The predecessor's network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(6272, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def epoch(
    model: nn.Module,
    images: Dataset,
    device: torch.device,
    *,
    batch_size: int = 128,
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    optimiser: torch.optim.Optimizer | None = None,
) -> float:
    """One pass in float32, on attacked images where an attack is given; the sum of the batches' mean losses."""
    optimiser = optimiser or torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    total = 0.0
    for x, y in DataLoader(images, batch_size, shuffle=True):
        x, y = x.to(device), y.to(device)
        if attack:
            x = attack(model, x, y)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """The inner loop of adversarial training as it is usually written."""
    attacked = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        attacked.requires_grad_()
        loss = F.cross_entropy(model(attacked), y)
        (slope,) = torch.autograd.grad(loss, attacked)
        attacked = attacked.detach() + 2.5 * eps / steps * slope.sign()
        attacked = torch.min(torch.max(attacked, x - eps), x + eps).clamp(0, 1)
    return attacked.detach()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """On a split, in eval mode."""
    model.eval()
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(split.images.split(1000), split.labels.split(1000))]  # noqa: B905
    return (torch.stack(right).sum() / len(split)).item()
