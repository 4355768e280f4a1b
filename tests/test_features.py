"""Features for private linear classifiers: what is promised of an image's own row, and that data taught nothing."""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit import data, frontier
from labkit.data import Split
from labkit.features import ODD, described, noise_images, whitening
from labkit.scattering import Scattering
from labkit.store import Store
from labkit.workers import IMAGE_BYTES

TRANSFORM = Scattering(order=1, orientations=4)  # 9 channels


def split(n=70, seed=0):
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Split(pixels, torch.arange(n) % 10)


def test_a_row_depends_on_its_image_alone_and_its_length_is_bounded():
    images = split()
    found = described(images, TRANSFORM, 3)
    assert found.shape == (70, 9 * 49)
    alone = described(Split(images.pixels[5:6], images.labels[5:6]), TRANSFORM, 3)
    torch.testing.assert_close(found[5:6], alone, rtol=1e-5, atol=1e-5)
    assert (found.norm(dim=1) <= (9 * 49) ** 0.5 + 1e-3).all()
    groups = found.unflatten(1, (3, 3 * 49))
    assert groups.mean(2).abs().max() < 1e-4
    assert (groups.std(2) < 1.01).all()


def test_no_row_of_the_frontiers_features_is_longer_than_what_its_mean_is_accounted_for():
    assert len(frontier.TRANSFORM.paths) * 7 * 7 == frontier.MEAN_BOUND**2
    hard = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    hard[1], hard[2, ..., ::2], hard[3, ..., 14:], hard[4, ..., 5, 5] = 255, 255, 255, 255
    hard[5] = split(1).pixels[0] // 128 * 255
    found = described(Split(hard, torch.zeros(6, dtype=torch.long)), frontier.TRANSFORM, frontier.GROUPS)
    assert found.isfinite().all()
    assert (found.norm(dim=1) <= frontier.MEAN_BOUND).all()


def test_a_mirrored_image_has_nearly_the_same_features():
    images = split()
    seen, mirrored = described(images, TRANSFORM, 3), described(images.mirrored(), TRANSFORM, 3)
    even, odd = (seen + mirrored) / 2, (seen - mirrored) / 2
    whole = F.group_norm(roots(images.images), 3, eps=1e-5).flatten(1)
    torch.testing.assert_close(even + odd / ODD, whole, rtol=1e-4, atol=1e-4)


def roots(images):
    found = TRANSFORM(images)
    return torch.stack([found[:, 0], *found[:, 1:].clamp(min=0).sqrt().unbind(1)], 1)


def test_noise_images():
    found = noise_images(200, 28, seed=0)
    assert found.shape == (200, 1, 28, 28)
    assert (found.min(), found.max()) == (0, 1)
    assert (found == 0).double().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(found, noise_images(200, 28, seed=0))
    assert not torch.equal(found, noise_images(200, 28, seed=1))
    step, far = found[..., 1:] - found[..., :-1], found[..., 9:] - found[..., :-9]
    assert step.square().mean() < 0.2 * far.square().mean()  # near pixels are alike


def test_whitening_evens_out_the_features_of_noise_and_gives_rows_of_one_length():
    made = whitening(TRANSFORM, 3)
    noise = noise_images(500, 28, seed=7)
    plain = described(Split((noise * 255).to(torch.uint8), torch.zeros(500, dtype=torch.long)), TRANSFORM, 3)
    white = made(plain, plain.mean(0))
    plain = plain - plain.mean(0)
    torch.testing.assert_close(white.norm(dim=1), torch.full((500,), (9 * 49) ** 0.5))

    def condition(features):
        values = torch.linalg.eigvalsh(features.T @ features)
        return values[-1] / values[len(values) // 4]

    assert condition(white) < 0.3 * condition(plain)


def test_whitening_is_symmetric_and_loses_nothing():
    made = whitening(TRANSFORM, 3)
    torch.testing.assert_close(made.channels, made.channels.T)
    assert (torch.linalg.eigvalsh(made.channels) > 0).all()
    assert made.channels.shape == (9, 9)
    assert made.places.shape == (49, 49)


class Held(TorchDispatchMode):
    """How many bytes the tensors take that this thread makes, at most at a time: what a GPU would have to hold."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)):
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.sizes.values()))
        return found


def test_the_features_of_an_image_take_no_more_than_it_is_planned_with():
    described(split(1), frontier.TRANSFORM, frontier.GROUPS)  # makes the filters
    with Held() as held:
        described(split(15), frontier.TRANSFORM, frontier.GROUPS)  # one piece, so this thread's
    assert IMAGE_BYTES / 2 < held.most / 15 < IMAGE_BYTES


def test_of_all_images_features_there_are_two_copies_at_a_time(tmp_path, monkeypatch):
    """Of 60 000 images one takes a gigabyte, and a GPU of 8 GiB must hold what else is there."""
    width = 9 * 49
    monkeypatch.setattr(frontier, "TRANSFORM", TRANSFORM)
    monkeypatch.setattr(frontier, "described", lambda images, *_: torch.rand(len(images), width))
    digits = data.load("digits", train_size=1000, test_size=20, seed=0, device=torch.device("cpu"))
    many = Split(digits.train.pixels.repeat(60, 1, 1, 1), digits.train.labels.repeat(60))
    whitening(TRANSFORM, frontier.GROUPS)  # made on the CPU, once
    with Held() as held:
        run = {"sample_rate": 0.01, "epochs": 0.05, "delta": 1e-5, "seeds": [0], "store": Store(tmp_path)}
        frontier.frontiers(replace(digits, train=many), [1.0, 8.0], **run)
    one = len(many) * width * 4  # bytes
    assert 2 * one < held.most < 2.5 * one
