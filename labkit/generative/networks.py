"""Architectures of generative models and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 28  # pixels


class CVAE(nn.Module):
    """Conditional variational autoencoder (Kingma and Welling 2014; Sohn et al. 2015) for 28x28 grey images.

    The label is given to both halves as a one-hot vector: the encoder sees it as a learned second channel and
    beside its features, the decoder beside the latent vector. 0.86 M parameters and 3.6 MFLOP forward an image
    with 32 latent dimensions.

    Args:
        latent: latent dimensions D.
        classes: number of classes C; labels are in [0, C).
    """

    def __init__(self, latent: int, classes: int = 10):
        super().__init__()
        self.latent, self.classes = latent, classes
        self.label_plane = nn.Linear(classes, SIDE * SIDE)
        self.convolutions = nn.Sequential(
            nn.Conv2d(2, 16, 4, stride=2, padding=1),  # 14 x 14
            nn.SiLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),  # 7 x 7
            nn.SiLU(),
            nn.Flatten(),
        )
        self.posterior = nn.Sequential(nn.Linear(32 * 49 + classes, 256), nn.SiLU(), nn.Linear(256, 2 * latent))
        self.expansion = nn.Sequential(
            nn.Linear(latent + classes, 256), nn.SiLU(), nn.Linear(256, 32 * 49), nn.SiLU(), nn.Unflatten(1, (32, 7, 7))
        )
        self.deconvolutions = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),  # 14 x 14
            nn.SiLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),  # 28 x 28
        )

    def encode(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian q(z | x, y): mean and log-variance, each [N, D], of images [N, 1, 28, 28] in [0, 1]."""
        one_hot = F.one_hot(labels, self.classes).to(images.dtype)  # [N, C]
        plane = self.label_plane(one_hot).view(-1, 1, SIDE, SIDE).to(images.dtype)  # [N, 1, 28, 28]
        features = self.convolutions(torch.cat([images, plane], dim=1))  # [N, 1568]
        mean, log_variance = self.posterior(torch.cat([features, one_hot], dim=1)).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Logits of the pixels' means, [N, 1, 28, 28], for latents [N, D]."""
        one_hot = F.one_hot(labels, self.classes).to(latents.dtype)  # [N, C]
        return self.deconvolutions(self.expansion(torch.cat([latents, one_hot], dim=1))).float()

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw z = mean + exp(log-variance / 2) noise with noise [N, D], decode.

        Returns:
            ``(logits, mean, log_variance)``: [N, 1, 28, 28], [N, D], [N, D], in float32.
        """
        mean, log_variance = self.encode(images, labels)
        return self.decode(mean + (log_variance / 2).exp() * noise, labels), mean, log_variance


def fresh(latent: int, classes: int = 10, *, seed: int) -> CVAE:
    """An untrained :class:`CVAE` whose weights depend on ``seed`` alone; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.default_generator.manual_seed(seed)
        return CVAE(latent, classes)
