"""Features for a private linear classifier: scattering coefficients, whitened as noise suggests and not as data do.

DP-SGD's noise is the same in every direction, and so should the features be: directions that are strong in all images
drown those that tell one from another. Their covariance need not be learned from the private images. That of scattering
coefficients of synthetic noise, with the spectrum of natural images, serves as well, and costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.data import Split
from labkit.device import generator
from labkit.scattering import Scattering
from labkit.workers import spread

ODD = 0.4  # how much is kept of what changes its sign when an image is mirrored: its class says little there
EMPTY = 1e-5  # variance below which a group of channels counts as empty, and is not blown up
DECAY = 1.5  # of the synthetic images' amplitude with frequency; natural images' is about 1
SAMPLES = 1500  # synthetic images
CHANNELS, PLACES = (0.25, 3e-3), (0.2, 1e-2)  # how far to whiten (0.5: wholly), and the floor, as a share of the trace


def described(split: Split, transform: Scattering, groups: int) -> Tensor:
    """Roots of scattering coefficients, each image's brought to one scale in every group of channels.

    Averages of moduli are skewed, and their square roots less so. Group normalisation (Wu and He 2018) divides by an
    image's own spread, so it costs no privacy. An image and its mirror image mean the same thing to wear: of what tells
    the two apart only ``ODD`` is kept, and noise in those directions disturbs less.

    Args:
        split: N images.
        transform: of the images' size.
        groups: of neighbouring channels; divides their number K.

    Returns:
        [N, K P] float32, K channels at P places each; no row is longer than sqrt(K P).
    """

    def part(chosen: slice) -> Tensor:
        images, _ = split.batch(torch.arange(chosen.start, chosen.stop))
        found = transform(images)  # [B, K, p, p]
        seen, mirrored = (_normalised(each, groups) for each in (found, found[:, transform.mirror].flip(3)))
        return torch.lerp(mirrored, seen, (1 + ODD) / 2)

    return torch.cat(spread(part, len(split), split.labels.device))


def noise_images(images: int, size: int, seed: int) -> Tensor:
    """Random images [N, 1, size, size] in [0, 1], of amplitude 1 / frequency^DECAY, about half of each black."""
    draw = generator(seed, "noise images")
    along = torch.fft.fftfreq(size)
    frequency = (along[:, None].square() + along.square()).sqrt().clamp(min=1 / size)
    grain = torch.fft.fft2(torch.randn(images, size, size, generator=draw)) / frequency**DECAY
    found = torch.fft.ifft2(grain).real
    found = (found - found.mean((1, 2), keepdim=True)) / found.std((1, 2), keepdim=True)
    return (found.clamp(0, 2) / 2)[:, None]


@dataclass(frozen=True)
class Whitening:
    """A linear map of features [K P] that treats channels and places apart.

    Attributes:
        channels: [K, K], places: [P, P], both symmetric.
    """

    channels: Tensor
    places: Tensor

    def to(self, device: torch.device) -> Whitening:
        """The same map for features on a device."""
        return Whitening(self.channels.to(device), self.places.to(device))

    def __call__(self, features: Tensor, mean: Tensor) -> Tensor:
        """Features [N, K P] less a mean [K P], whitened, each row brought to length sqrt(K P) by itself: [N, K P].

        So long that the 1 of a classifier's bias takes no part of the clipped gradient to speak of.
        """
        length = (len(self.channels) * len(self.places)) ** 0.5
        found = torch.empty_like(features)  # of all images they are a gigabyte: two of it at a time are enough
        for part, into in zip(features.split(4096), found.split(4096), strict=True):
            x = (part - mean).unflatten(1, (len(self.channels), len(self.places)))  # [B, K, P]
            into.copy_(length * F.normalize((self.channels @ x @ self.places).flatten(1), dim=1))
        return found


@cache
def whitening(transform: Scattering, groups: int, seed: int = 0) -> Whitening:
    """The map that whitens the features of noise, in part; without mirrors, since noise knows no side."""
    z = _normalised(transform(noise_images(SAMPLES, transform.size, seed)), groups)
    z = (z - z.mean(0)).unflatten(1, (len(transform.paths), -1))  # [S, K, P]
    by_channel, by_place = z.transpose(0, 1).flatten(1), z.flatten(0, 1).T  # [K, S P], [P, S K]
    return Whitening(_power(by_channel, *CHANNELS), _power(by_place, *PLACES))


def _normalised(coefficients: Tensor, groups: int) -> Tensor:
    plain, moduli = coefficients.tensor_split([1], dim=1)
    return F.group_norm(torch.cat([plain, moduli.clamp(min=0).sqrt()], 1), groups, eps=EMPTY).flatten(1)


def _power(rows: Tensor, power: float, floor: float) -> Tensor:
    """(C + floor trace C)^-power, of the second moments C [D, D] of rows [D, S]; in float64, as float32."""
    rows = rows.double()
    values, vectors = torch.linalg.eigh(rows @ rows.T / rows.shape[1])
    values = values.clamp(min=0)
    return ((vectors * (values + floor * values.sum()).pow(-power)) @ vectors.T).float()
