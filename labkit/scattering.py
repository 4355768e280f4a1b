"""A two-dimensional scattering transform: features of an image that no data taught, and so no data can leak through.

Images are convolved with Morlet wavelets, the modulus is taken, the same once more, and the result is averaged:
what is left moves little when the image is shifted or bent (Mallat 2012; Bruna and Mallat 2013). A linear classifier
on such features is what differentially private training can afford (Tramer and Boneh 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

WAVE = 3 * math.pi / 4  # centre frequency of the finest wavelet, radians a pixel
WIDTH = 0.8  # standard deviation of the finest envelope, and of the average over one pixel


@dataclass(frozen=True)
class Scattering:
    """Scattering coefficients of square images, of orders 0, 1 and 2.

    Attributes:
        size: side of the images, a multiple of 2^scales.
        scales: J; wavelets of widths 1, 2, ... 2^(J-1), averages over 2^J pixels.
        orientations: L, angles in [0, pi).
        order: 1 or 2, the most wavelets in a row.
    """

    size: int = 28
    scales: int = 2
    orientations: int = 8
    order: int = 2

    def __post_init__(self) -> None:
        if self.scales < 1 or self.orientations < 1 or self.size % 2**self.scales or self.order not in (1, 2):
            raise ValueError(
                f"{self}: scales and orientations must be at least 1, size a multiple of 2^scales = {2**self.scales}, "
                "order 1 or 2"
            )

    @property
    def paths(self) -> list[tuple[tuple[int, int], ...]]:
        """What each channel has been through: (), then (scale, angle) once, then twice, the second one coarser."""
        waves = [(j, angle) for j in range(self.scales) for angle in range(self.orientations)]
        once = [(wave,) for wave in waves]
        twice = [(a, b) for a in waves for b in waves if b[0] > a[0]] if self.order == 2 else []
        return [(), *once, *twice]

    @property
    def mirror(self) -> list[int]:
        """Which channel of an image is each channel of its mirror image, left and right exchanged there too."""
        paths = self.paths  # an angle becomes pi less it
        return [paths.index(tuple((j, -angle % self.orientations) for j, angle in path)) for path in paths]

    def __call__(self, images: Tensor) -> Tensor:
        """Coefficients [N, K, size / 2^J, size / 2^J] of images [N, 1, size, size], in their dtype, K paths.

        Images are continued by reflection. Nothing is learned and nothing drawn; an image's coefficients depend on
        that image alone.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (1, self.size, self.size):
            raise ValueError(f"images are {list(images.shape)}, need [N, 1, {self.size}, {self.size}]")
        bank = filters(self.size, self.scales, self.orientations)
        complex_dtype = torch.complex128 if images.dtype == torch.float64 else torch.complex64
        waves = {pair: wave.to(images.device, complex_dtype) for pair, wave in bank.waves.items()}
        averages = [average.to(images) for average in bank.averages]
        wide = F.pad(images[:, 0], (bank.margin,) * 4, mode="reflect")  # [N, S, S]
        spectrum = torch.fft.fft2(wide)[:, None]  # [N, 1, S, S]
        first, second = [], []
        for j in range(self.scales):
            u = _subsampled(spectrum * waves[0, j], 2**j).abs()  # [N, L, S/2^j, S/2^j]
            first.append(averages[j] @ u @ averages[j].mT)
            deeper = range(j + 1, self.scales) if self.order == 2 else ()
            again = torch.fft.fft2(u)[:, :, None] if deeper else None  # [N, L, 1, S/2^j, S/2^j]
            twice = []
            for k in deeper:
                u = _subsampled(again * waves[j, k], 2 ** (k - j)).abs()  # [N, L, L, S/2^k, S/2^k]
                twice.append(averages[k] @ u @ averages[k].mT)
            if twice:
                second.append(torch.cat(twice, 2).flatten(1, 2))
        return torch.cat([(averages[0] @ wide @ averages[0].mT)[:, None], *first, *second], 1)


@dataclass(frozen=True)
class Bank:
    """Filters of one size. Grid j has every 2^j-th point, in the middle of its 2^j pixels: so it has no preferred side.

    Attributes:
        waves: by (i, j), complex [L, S/2^i, S/2^i]: spectra of the wavelets of scale j for signals on grid i,
            which also move the result to the middle of grid j's points. S is the padded side.
        averages: by j, float64 [S', S/2^j]: the average along one axis, from grid j to the image's part of grid J.
        energy: float64 [S, S], of all filters together at each frequency (Littlewood and Paley).
        margin: pixels added on each side.
    """

    waves: dict[tuple[int, int], Tensor]
    averages: list[Tensor]
    energy: Tensor
    margin: int


@cache
def filters(size: int, scales: int, orientations: int) -> Bank:
    """Morlet wavelets and a Gaussian average (Bruna and Mallat 2013, section 2.1), together a contraction.

    A Morlet wavelet is a Gaussian around its centre frequency less as much of one around zero as makes it blind to
    constants. All wavelets are divided by one number, such that at no frequency the filters' energies exceed 1.
    """
    margin = 2**scales
    side = size + 2 * margin
    omega = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64)  # [S], radians a pixel
    low = sum((-0.5 * (WIDTH * 2 ** (scales - 1) * w).square()).exp() for w in _turns(omega))  # [S]
    angles = [math.pi * k / orientations for k in range(orientations)]
    waves = torch.stack(
        [torch.stack([_morlet(omega, j, angle, orientations) for angle in angles]) for j in range(scales)]
    )
    energy = waves.square().sum((0, 1))  # [S, S]
    energy = (energy + energy.flip(0, 1).roll((1, 1), (0, 1))) / 2  # a real image has the same energy at w and -w
    room = (1 - (low[:, None] * low).square()).clamp(min=0)
    strong = energy > 1e-3 * energy.max()
    scale = (room[strong] / energy[strong]).min().sqrt()

    def between(i: int, j: int) -> Tensor:
        turn = torch.polar(torch.ones_like(omega), omega * (2**j - 2**i) / 2)  # [S], moves by half the difference
        turn.imag[side // 2] = 0  # the mean of -pi and pi, which are one frequency: a grid has no preferred side
        return _folded(scale * waves[j] * turn[:, None] * turn, 2**i)

    ends = margin + 2**scales * torch.arange(size // 2**scales) + (2**scales - 1) / 2  # [S'], pixels
    averages = []
    for j in range(scales):
        points = 2**j * torch.arange(side // 2**j) + (2**j - 1) / 2  # [S/2^j], pixels
        turn = torch.cos(omega * (ends[:, None] - points)[..., None])  # [S', S/2^j, S]
        averages.append(2**j * (turn * low).mean(-1))
    pairs = [(i, j) for j in range(scales) for i in range(max(j, 1))]
    return Bank({pair: between(*pair) for pair in pairs}, averages, room.neg() + 1 + scale.square() * energy, margin)


def _morlet(omega: Tensor, scale: int, angle: float, orientations: int) -> Tensor:
    """Spectrum [S, S] of the wavelet at frequencies ``omega`` [S] of both axes; thinner where there are more angles."""
    width, centre, slant = WIDTH * 2**scale, WAVE / 2**scale, 4 / orientations
    down, across = torch.meshgrid(omega, omega, indexing="ij")

    def bump(shift: float) -> Tensor:
        total = torch.zeros_like(down)
        for y in _turns(down):
            for x in _turns(across):
                along = x * math.cos(angle) + y * math.sin(angle) - shift
                beside = y * math.cos(angle) - x * math.sin(angle)
                total += (-0.5 * width**2 * (along.square() + (beside / slant).square())).exp()
        return total

    gabor, around_zero = bump(centre), bump(0.0)
    return gabor - gabor[0, 0] / around_zero[0, 0] * around_zero


def _turns(omega: Tensor) -> list[Tensor]:
    """Frequencies that a grid of pixels cannot tell from these: a filter's spectrum is summed over them."""
    return [omega + 2 * math.pi * turn for turn in (-1, 0, 1)]


def _folded(spectrum: Tensor, step: int) -> Tensor:
    """[..., S, S] to [..., S/step, S/step]: frequencies that the coarser grid cannot tell apart, added."""
    for axis in (-1, -2):
        spectrum = reduce(torch.add, spectrum.chunk(step, axis))
    return spectrum


def _subsampled(spectrum: Tensor, step: int) -> Tensor:
    """Every ``step``-th value along both axes of what has this spectrum: complex [..., S/step, S/step]."""
    return torch.fft.ifft2(_folded(spectrum, step) / step**2)
