"""The scattering transform against what is proved of it (Mallat 2012; Bruna and Mallat 2013)."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.scattering import Scattering, filters


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n=6, seed=0, side=28):
    """Random images in [0, 1] with some structure, float64."""
    coarse = torch.rand(n, 1, 7, 7, generator=gen(seed), dtype=torch.float64)
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def energy(coefficients, scales=2):
    """Of every 2^J-th value along both axes, as if all had been kept."""
    return 4**scales * coefficients.square().sum((1, 2, 3))


def test_shape_and_paths():
    transform = Scattering()
    assert transform(smooth(3)).shape == (3, 81, 7, 7)
    assert len(transform.paths) == 1 + 16 + 64
    assert Scattering(order=1)(smooth(2)).shape == (2, 17, 7, 7)
    assert Scattering(scales=3, size=32, orientations=4)(smooth(2, side=32)).shape == (2, 1 + 12 + 48, 4, 4)
    torch.testing.assert_close(Scattering(order=1)(smooth()), transform(smooth())[:, :17])


def test_littlewood_paley():
    """No frequency is amplified, and none below the highest corner is lost: 0.1 <= energy <= 1."""
    bank = filters(28, 2, 8)
    assert bank.energy.max() <= 1 + 1e-9
    assert bank.energy.min() > 0.1
    assert bank.energy[0, 0] == pytest.approx(1)


def test_wavelets_are_blind_to_constants_and_the_average_keeps_them():
    found = Scattering()(torch.full((1, 1, 28, 28), 0.7, dtype=torch.float64))[0]
    torch.testing.assert_close(found[0], torch.full((7, 7), 0.7, dtype=torch.float64))
    assert found[1:].abs().max() < 1e-12


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_contraction(seed):
    """Two images' coefficients are no further apart than the images, as continued by reflection."""
    noise = torch.rand(2, 1, 28, 28, generator=gen(seed), dtype=torch.float64)
    images = torch.where(torch.tensor(seed % 2 == 0), noise, smooth(2, seed))
    wide = F.pad(images, (4,) * 4, mode="reflect")
    found = Scattering()(images)
    assert (energy(found) <= wide.square().sum((1, 2, 3)) * 1.001).all()
    apart = energy(found[:1] - found[1:])
    assert apart <= (wide[:1] - wide[1:]).square().sum() * 1.001


def test_an_order_more_keeps_energy_that_an_order_less_loses():
    images = torch.rand(8, 1, 28, 28, generator=gen(), dtype=torch.float64)
    once, twice = Scattering(order=1)(images), Scattering(order=2)(images)
    assert (energy(twice) > energy(once)).all()


def test_shifts_move_coefficients_less_than_pixels():
    images = F.pad(smooth(8)[:, :, 6:22, 6:22], (6,) * 4)  # room to move in
    still, moved = Scattering()(images), Scattering()(images.roll(1, 3))

    def change(a, b):
        return ((a - b).square().sum((1, 2, 3)) / a.square().sum((1, 2, 3))).sqrt()

    assert (change(still, moved) < 0.75 * change(images, images.roll(1, 3))).all()
    by_four = Scattering()(images.roll(4, 3))  # a whole step of the grid: the coefficients move along
    torch.testing.assert_close(by_four[..., 2:6], still[..., 1:5], rtol=0, atol=5e-3)


def test_deformations_move_coefficients_in_proportion():
    """Distance under x -> x + s sin(x) grows no faster than s, where a pixel's value may jump."""
    stripes = (torch.arange(28, dtype=torch.float64) * 2 * math.pi / 3.5).sin()  # fast, so that pixels change at once
    image = (0.5 + 0.5 * stripes).expand(1, 1, 28, 28)
    axis = torch.linspace(-1, 1, 28, dtype=torch.float64)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")

    def bent(s):
        grid = torch.stack([columns + s * (math.pi * columns).sin(), rows], -1)[None]
        return F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=True)

    base, plain = Scattering()(bent(0.0)), bent(0.0)
    moved = {s: energy(Scattering()(bent(s)) - base).sqrt().item() for s in (0.01, 0.02, 0.04)}
    assert moved[0.02] < 2.5 * moved[0.01]
    assert moved[0.04] < 2.5 * moved[0.02]
    assert moved[0.04] < 0.7 * (bent(0.04) - plain).norm().item()


def test_order_one_by_the_definition():
    """|x * psi| * phi by direct sums, on the reflected image taken as periodic."""
    image = torch.rand(1, 1, 28, 28, generator=gen(), dtype=torch.float64)
    bank = filters(28, 2, 8)
    wide = F.pad(image, (4,) * 4, mode="reflect")[0, 0]
    kernel = torch.fft.ifft2(bank.waves[0, 0][3])  # of the finest scale, which does not subsample
    places = torch.arange(36)
    response = torch.zeros(36, 36, dtype=torch.complex128)
    for y in range(36):
        for x in range(36):
            response += wide[y, x] * kernel[(places[:, None] - y) % 36, (places - x) % 36]
    low = bank.averages[0]
    torch.testing.assert_close(Scattering(order=1)(image)[0, 4], low @ response.abs() @ low.T)


def test_each_image_by_itself_and_in_its_dtype():
    images = smooth(5)
    whole = Scattering()(images)
    torch.testing.assert_close(whole[2:3], Scattering()(images[2:3]), rtol=0, atol=1e-12)
    single = Scattering()(images.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, whole.float(), rtol=1e-3, atol=1e-5)


def test_refuses():
    with pytest.raises(ValueError, match="need \\[N, 1, 28, 28\\]"):
        Scattering()(torch.rand(2, 28, 28))
    with pytest.raises(ValueError, match="multiple of 2\\^scales"):
        Scattering(size=30)
    with pytest.raises(ValueError, match="order 1 or 2"):
        Scattering(order=3)


@pytest.mark.parametrize("transform", [Scattering(), Scattering(size=24, scales=3, orientations=6)])
def test_a_mirror_image_has_the_same_coefficients_in_other_places(transform):
    images = smooth(3, side=transform.size)
    expected = transform(images)[:, transform.mirror].flip(3)
    torch.testing.assert_close(transform(images.flip(3)), expected, rtol=0, atol=1e-9)
    assert transform.mirror != list(range(len(transform.paths)))
