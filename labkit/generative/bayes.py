"""A CVAE as a classifier: Bayes' rule with the evidence lower bound in the place of the likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labkit.device import generator
from labkit.generative.cvae import cross_entropy, kl_divergence
from labkit.generative.networks import CVAE


class ElboLogits(nn.Module):
    """Images [N, 1, 28, 28] in [0, 1] to log-posteriors [N, C] / temperature, differentiable; classes equally likely.

    The latent draws are constants, the same for all images and classes: so an image gets the same answer twice, and an
    attack that follows the gradient knows all there is to know. Bounds of different classes often lie tens of nats
    apart, where the gradient of the cross-entropy underflows; a temperature above 1, which changes no decision, brings
    it back.

    Args:
        model: a trained CVAE.
        samples: latent draws an image and class, at least 1.
        seed: of the draws.
        temperature: positive.
    """

    def __init__(self, model: CVAE, samples: int = 1, seed: int = 0, temperature: float = 1.0):
        super().__init__()
        self.model, self.temperature = model, temperature
        draw = generator(seed, "elbo")  # on the CPU, so that every device has the same draws
        noise = torch.randn(samples, model.latent, generator=draw)  # [S, D]
        self.register_buffer("noise", noise.to(next(model.parameters()).device))

    def bounds(self, images: Tensor) -> Tensor:
        """The ELBO under each class, [N, C], in nats an image."""
        classes = self.model.classes
        labels = torch.arange(classes, device=images.device).repeat(len(images))  # [N C]
        x = images.repeat_interleave(classes, dim=0)  # [N C, 1, 28, 28]
        mean, log_variance = self.model.encode(x, labels)
        scale = (log_variance / 2).exp()
        bce = sum(cross_entropy(self.model.decode(mean + scale * draw, labels), x) for draw in self.noise)  # [N C]
        return -(bce / len(self.noise) + kl_divergence(mean, log_variance)).view(-1, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.bounds(images).log_softmax(1) / self.temperature
