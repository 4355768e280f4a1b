"""FashionMNIST (md5-verified) or the bundled digits, as uint8 tensors on the device.

torchvision's reader is not used: it takes a second to import, trusts a decompressed copy without a checksum, and must
write that copy beside the archives. Here the bytes that are read are the bytes that were verified, at every load.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from labkit.device import generator
from labkit.store import checksum, user_folder, write_whole

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds without a byte before a mirror counts as out of reach
# FashionMNIST as its authors publish it (github.com/zalandoresearch/fashion-mnist): archives, their md5, and classes.
ARCHIVES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGITS_TEST = 500  # of the 1797 digits
_DIGITS_CLASSES = tuple(str(digit) for digit in range(10))


class DataError(RuntimeError):
    """Data that cannot be had, or cannot be trusted: which file, what is wrong with it, and the remedies."""


class _Unavailable(DataError):
    """Data that is not on disk and could not be downloaded; ``reason`` says why, in a few words."""

    def __init__(self, path: Path, reason: str):
        self.reason = reason
        super().__init__(
            f"{path} is missing, and {reason}. Remedies: set LABKIT_DATA to a folder that holds "
            "FashionMNIST/raw/*.gz; or run again where there is a network and the folder can be written; "
            "or use dataset: digits, which needs neither"
        )


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, held on the device.

    Attributes:
        pixels: [N, 1, 28, 28] uint8, 0 to 255.
        labels: [N] int64, index of the class.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images, [N, 1, 28, 28] float32 in [0, 1]; made anew at each call."""
        return self.pixels.float() / 255

    def mirrored(self) -> Split:
        """The same images, each left to right."""
        return Split(self.pixels.flip(3), self.labels)

    def chosen(self, indices: Tensor) -> Split:
        """Those of ``indices``: [B] integers, or [N] booleans; on any device."""
        indices = indices.to(self.labels.device)
        return Split(self.pixels[indices], self.labels[indices])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 1, 28, 28] float32 in [0, 1] and labels [B], made on the device.

        Args:
            indices: as for :meth:`chosen`.
        """
        found = self.chosen(indices)
        return found.images, found.labels


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a run is trained and tested on.

    Attributes:
        name: ``fashion_mnist`` or ``digits``: what it is, also where ``auto`` was asked for.
        title: the name to print; says so if it is a substitute.
        train, test: the two splits, after subsetting.
        classes: names, by label.
        sha256: checksum of the pixels and labels of both splits, as used, or of what they were chosen from, and how.
    """

    name: str
    title: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str

    def fewer(self, places: Tensor) -> Dataset:
        """With those training images only, by their places [n]."""
        return replace(self, train=self.train.chosen(places), sha256=checksum(places, head=self.sha256))


def load(
    name: str = "fashion_mnist",
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Dataset:
    """The dataset, or a random part of it, on ``device``.

    Args:
        name: ``fashion_mnist`` (60 000 + 10 000 images, from ``LABKIT_DATA`` or downloaded there), ``digits``
            (1297 + 500, bundled with scikit-learn) or ``auto``: the digits if FashionMNIST is not on disk and
            cannot be downloaded, which the title then says. A damaged file on disk is an error also then.
        train_size, test_size: images to take; None, or more than there are, takes all in the original order.
        seed: draws the parts; with the same seed a smaller part is the beginning of a larger one.

    Raises:
        DataError: a file is damaged, or missing and not to be downloaded; nothing half-written is left.
        ValueError: an unknown name, or a size below 1.
    """
    for size_name, size in (("train_size", train_size), ("test_size", test_size)):
        if size is not None and size < 1:
            raise ValueError(f"{size_name}: {size} images cannot be taken; give 1 or more, or None for all")
    if name == "digits":
        found, title, (train, test), classes = "digits", "scikit-learn digits", _digits(), _DIGITS_CLASSES
    elif name in ("fashion_mnist", "auto"):
        found, title, classes = "fashion_mnist", "FashionMNIST", CLASSES
        try:
            train, test = _fashion_mnist(user_folder("LABKIT_DATA", "data") / "FashionMNIST" / "raw")
        except _Unavailable as error:
            if name == "fashion_mnist":
                raise
            log.warning("%s; going on with the digits", error)
            found, (train, test), classes = "digits", _digits(), _DIGITS_CLASSES
            title = f"scikit-learn digits (FashionMNIST could not be had: {error.reason})"
    else:
        raise ValueError(f"dataset: {name!r} is unknown; known are fashion_mnist, digits and auto")
    train = _part(train, train_size, generator(seed, "train subset"))
    test = _part(test, test_size, generator(seed, "test subset"))
    sha256 = checksum(train.pixels, train.labels, test.pixels, test.labels)
    train, test = (Split(split.pixels.to(device), split.labels.to(device)) for split in (train, test))
    return Dataset(found, title, train, test, classes, sha256)


def _part(split: Split, size: int | None, draw: torch.Generator) -> Split:
    if size is None or size >= len(split):
        return split
    chosen = torch.randperm(len(split), generator=draw)[:size]
    return split.chosen(chosen)


def _digits() -> tuple[Split, Split]:
    """The 8x8 digits, enlarged bilinearly; the split is stratified and the same for every seed."""
    from sklearn.datasets import load_digits  # which takes a second to import, and few runs need
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    ink = torch.from_numpy(digits.images).unsqueeze(1) / 16  # [1797, 1, 8, 8] float64 in [0, 1]
    images = torch.nn.functional.interpolate(ink, size=(28, 28), mode="bilinear", align_corners=False)
    pixels = (images * 255).round().to(torch.uint8)  # [1797, 1, 28, 28]
    labels = torch.from_numpy(digits.target).long()
    parts = train_test_split(np.arange(len(labels)), test_size=DIGITS_TEST, stratify=labels.numpy(), random_state=0)
    train, test = (Split(pixels[indices], labels[indices]) for indices in parts)
    return train, test


def _fashion_mnist(folder: Path) -> tuple[Split, Split]:
    """Both splits from the four archives in ``folder``, which are downloaded if they are not there."""
    read = {name: _decompressed(folder / name, md5) for name, md5 in ARCHIVES.items()}

    def split(prefix: str) -> Split:
        # idx format: a header of 16 bytes before images, of 8 before labels, then one byte a value.
        pixels = np.frombuffer(read[f"{prefix}-images-idx3-ubyte.gz"], np.uint8, offset=16)
        labels = np.frombuffer(read[f"{prefix}-labels-idx1-ubyte.gz"], np.uint8, offset=8)
        return Split(torch.from_numpy(pixels.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(labels.astype(np.int64)))

    return split("train"), split("t10k")


def _decompressed(path: Path, md5: str) -> bytes:
    """The content of one archive, verified, and downloaded first if it is missing."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        content = _download(path, md5)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Remedies: {_remedies(path)}") from error
    if (found := _md5(content)) != md5:
        raise DataError(
            f"{path} is damaged: {len(content):,} bytes with md5 {found}, but md5 {md5} is expected. "
            f"Remedies: {_remedies(path)}"
        )
    return gzip.decompress(content)


def _remedies(path: Path) -> str:
    return (
        f"delete {path.name} and run again, which downloads it; or set LABKIT_DATA to a folder that holds "
        "sound FashionMNIST/raw/*.gz; or use dataset: digits"
    )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download(path: Path, md5: str) -> bytes:
    """The archive from the first mirror that has it whole; written only when its checksum is right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock"):
            if path.exists():  # another process downloaded it while this one waited
                return path.read_bytes()
            content = _fetch(path, md5)
            write_whole(path, content)
            return content
    except OSError as error:
        raise _Unavailable(path, f"its folder cannot be written ({error.strerror})") from error


def _fetch(path: Path, md5: str) -> bytes:
    failures = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}{path.name}", timeout=TIMEOUT) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{mirror} cannot be reached ({getattr(error, 'reason', None) or error})")
            continue
        if _md5(content) == md5:
            log.info("downloaded %s (%.1f MB)", path.name, len(content) / 1e6)
            return content
        failures.append(f"{mirror} sent {len(content):,} bytes that do not match md5 {md5}")
    raise _Unavailable(path, "; ".join(failures))
