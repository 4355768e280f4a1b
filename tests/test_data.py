"""The data is what it says it is, or one clear error says why not."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from labkit import data
from labkit.data import DataError, load
from labkit.store import user_folder

TRAIN, TEST = 40, 20


@pytest.fixture
def real() -> Path:
    raw = user_folder("LABKIT_DATA", "data") / "FashionMNIST" / "raw"
    if not all((raw / name).exists() for name in data.ARCHIVES):
        pytest.skip("FashionMNIST is not on disk: set LABKIT_DATA")
    return raw


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four archives in FashionMNIST's format with a handful of images, which stand in for the real ones."""
    made = {}
    draw = torch.Generator().manual_seed(0)
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=draw)
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        made[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(header + pixels.numpy().tobytes(), mtime=0)
        header = b"\0\0\x08\x01" + count.to_bytes(4, "big")
        made[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(header + bytes(i % 10 for i in range(count)), mtime=0)
    checksums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in made.items()}
    monkeypatch.setattr(data, "ARCHIVES", {name: checksums[name] for name in data.ARCHIVES})
    return made


@pytest.fixture
def raw(tmp_path: Path, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own that holds the stand-in archives; no mirror answers."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(data, "MIRRORS", [f"http://127.0.0.1:{unused.getsockname()[1]}/"])
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    return folder


class Mirror:
    """A web server on the loopback: ``files`` is what it sends, ``promised`` what it announces, in bytes."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.promised, self.asked = dict(files), {}, Counter()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/")
                mirror.asked[name] += 1
                if name not in mirror.files:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(mirror.promised.get(name, len(mirror.files[name]))))
                self.end_headers()
                self.wfile.write(mirror.files[name])

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(raw: Path, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror that has all files, and an empty data folder."""
    for name in archives:
        (raw / name).unlink()
    mirror = Mirror(archives)
    monkeypatch.setattr(data, "MIRRORS", [mirror.url])
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def left(raw: Path) -> set[str]:
    return {path.name for path in raw.iterdir()} - {".lock"}


# The real thing


def test_fashion_mnist_is_what_torchvision_reads(real: Path) -> None:
    ours = load()
    assert (ours.name, ours.title) == ("fashion_mnist", "FashionMNIST")
    assert ours.classes == tuple(FashionMNIST.classes)
    assert list(data.ARCHIVES.items()) == FashionMNIST.resources
    assert set(data.MIRRORS) <= set(FashionMNIST.mirrors)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "FashionMNIST" / "raw").mkdir(parents=True)
        for archive in real.glob("*.gz"):
            (Path(root) / "FashionMNIST" / "raw" / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
        for split, train in ((ours.train, True), (ours.test, False)):
            theirs = FashionMNIST(root, train=train)
            assert torch.equal(split.pixels.squeeze(1), theirs.data)
            assert torch.equal(split.labels, theirs.targets)


@pytest.mark.usefixtures("real")
def test_fashion_mnist_counts_range_and_first_labels() -> None:
    dataset = load()
    assert dataset.train.pixels.shape == (60_000, 1, 28, 28)
    assert dataset.test.pixels.shape == (10_000, 1, 28, 28)
    assert dataset.train.pixels.dtype == torch.uint8
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.train.labels[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    assert dataset.test.labels[:8].tolist() == [9, 2, 1, 1, 6, 1, 4, 6]
    assert dataset.train.labels.bincount().tolist() == [6000] * 10
    images, labels = dataset.test.batch(torch.tensor([0, 5]))
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.tolist() == [9, 1]
    # The published mean and deviation of the training images.
    assert dataset.train.images.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert dataset.train.images.std().item() == pytest.approx(0.3530, abs=1e-4)


# Parts


@pytest.mark.usefixtures("raw")
def test_a_smaller_part_begins_a_larger_one() -> None:
    small, large = load(train_size=10, seed=3), load(train_size=30, seed=3)
    assert torch.equal(small.train.pixels, large.train.pixels[:10])
    assert torch.equal(small.train.labels, large.train.labels[:10])
    assert not torch.equal(load(train_size=30, seed=4).train.pixels, large.train.pixels)
    assert len({image.numpy().tobytes() for image in large.train.pixels}) == 30


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("size", [None, TRAIN, TRAIN + 1])
def test_all_is_in_the_original_order(size: int | None) -> None:
    assert load(train_size=size).train.labels.tolist() == [i % 10 for i in range(TRAIN)]


@pytest.mark.usefixtures("raw")
def test_checksum_is_of_the_data_used() -> None:
    sums = {
        load(train_size=n, test_size=m, seed=s).sha256 for n, m, s in [(10, 5, 0), (11, 5, 0), (10, 6, 0), (10, 5, 1)]
    }
    assert len(sums) == 4
    assert load(train_size=10, test_size=5).sha256 in sums
    assert load().sha256 == load(train_size=TRAIN, seed=7).sha256


@pytest.mark.usefixtures("raw")
def test_batch_takes_indices_or_a_mask() -> None:
    split = load().train
    mask = torch.zeros(TRAIN, dtype=torch.bool)
    mask[[3, 7]] = True
    for chosen in (torch.tensor([3, 7]), mask):
        images, labels = split.batch(chosen)
        assert torch.equal(images, split.images[[3, 7]])
        assert labels.tolist() == [3, 7]


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"test_size: {size} images"):
        load("digits", test_size=size)


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="'mnist' is unknown; known are fashion_mnist, digits and auto"):
        load("mnist")


# Digits


def test_digits_are_whole_stratified_and_always_the_same() -> None:
    digits = load("digits", seed=0)
    assert (digits.name, digits.title) == ("digits", "scikit-learn digits")
    assert digits.train.pixels.shape == (1297, 1, 28, 28)
    assert digits.test.pixels.shape == (500, 1, 28, 28)
    assert (digits.train.pixels.min(), digits.train.pixels.max()) == (0, 255)
    shares = [split.labels.bincount() / len(split) for split in (digits.train, digits.test)]
    assert torch.allclose(shares[0], shares[1], atol=0.002)
    assert load("digits", seed=1).sha256 == digits.sha256
    train = {image.numpy().tobytes() for image in digits.train.pixels}
    assert not any(image.numpy().tobytes() in train for image in digits.test.pixels)


def test_digits_enlarged_keep_their_mean_ink() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits")
    whole = torch.cat([digits.train.images, digits.test.images])
    assert whole.mean().item() == pytest.approx(load_digits().images.mean() / 16, abs=0.01)


def test_digits_are_capped_at_what_there_is() -> None:
    digits = load("digits", train_size=12_000, test_size=3_000)
    assert (len(digits.train), len(digits.test)) == (1297, 500)


# What can go wrong with a file


def damage_truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_altered(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


def damage_emptied(content: bytes) -> bytes:
    return b""


DAMAGES = [damage_truncated, damage_altered, damage_emptied]


@pytest.mark.parametrize("name", ["auto", "fashion_mnist"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_clear_error(raw: Path, damage, name: str) -> None:
    path = raw / "train-images-idx3-ubyte.gz"
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    with pytest.raises(DataError) as caught:
        load(name)
    message = str(caught.value)
    for part in (str(path), "is damaged", data.ARCHIVES[path.name], "delete", "LABKIT_DATA", "digits"):
        assert part in message
    assert f"{len(damage(sound)):,} bytes" in message
    assert "\n" not in message
    path.write_bytes(sound)
    assert len(load(name).train) == TRAIN


def test_a_decompressed_copy_beside_it_does_not_hide_the_damage(raw: Path, archives: dict[str, bytes]) -> None:
    for name, content in archives.items():
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no longer itself")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is damaged"):
        load()


def test_a_file_that_cannot_be_read(raw: Path) -> None:
    path = raw / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz cannot be read: Is a directory.*LABKIT_DATA"):
        load("auto")


def test_a_missing_file_without_a_network(raw: Path) -> None:
    path = raw / "t10k-images-idx3-ubyte.gz"
    sound = path.read_bytes()
    path.unlink()
    before = left(raw)
    with pytest.raises(DataError) as caught:
        load()
    message = str(caught.value)
    for part in (str(path), "is missing", "cannot be reached", "Connection refused", "LABKIT_DATA", "dataset: digits"):
        assert part in message
    assert left(raw) == before
    path.write_bytes(sound)
    assert len(load().test) == TEST


def test_auto_falls_back_on_the_digits_and_says_so(raw: Path) -> None:
    assert load("auto").title == "FashionMNIST"
    (raw / "t10k-images-idx3-ubyte.gz").unlink()
    fallen = load("auto", train_size=12_000, test_size=3_000)
    assert fallen.name == "digits"
    assert fallen.title.startswith("scikit-learn digits (FashionMNIST could not be had: http://127.0.0.1")
    assert fallen.sha256 == load("digits").sha256


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file in the folder's place")
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "taken"))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is missing, and its folder cannot be written"):
        load()
    assert "cannot be written" in load("auto").title
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# Downloads


def test_a_download_is_kept(mirror: Mirror, raw: Path, archives: dict[str, bytes]) -> None:
    assert len(load("auto").train) == TRAIN
    assert {name: (raw / name).read_bytes() for name in left(raw)} == archives
    assert load().title == "FashionMNIST"
    assert set(mirror.asked.values()) == {1}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("announced", ["what is sent", "the whole"])
def test_a_broken_download_leaves_nothing(mirror: Mirror, raw: Path, archives, damage, announced: str) -> None:
    name = "train-labels-idx1-ubyte.gz"
    mirror.files[name] = damage(archives[name])
    if announced == "the whole":
        mirror.promised[name] = len(archives[name])
    with pytest.raises(DataError, match=f"{name} is missing, and http") as caught:
        load()
    assert "do not match md5" in str(caught.value) or "cannot be reached" in str(caught.value)
    assert left(raw) == {"train-images-idx3-ubyte.gz"}  # the one that came before it, whole
    mirror.files[name] = archives[name]
    assert len(load().train) == TRAIN


def test_the_next_mirror_is_tried(mirror: Mirror, archives, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Mirror({})
    monkeypatch.setattr(data, "MIRRORS", [empty.url, mirror.url])
    assert len(load().train) == TRAIN
    assert set(empty.asked) == set(archives)
    monkeypatch.setattr(data, "MIRRORS", [empty.url])
    empty.server.shutdown()
    empty.server.server_close()


def test_a_mirror_that_has_no_such_file(mirror: Mirror, raw: Path) -> None:
    mirror.files.clear()
    with pytest.raises(DataError, match=r"cannot be reached \(Not Found\)"):
        load()
    assert left(raw) == set()


def test_a_mirror_that_never_answers(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setattr("labkit.data.TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(data, "MIRRORS", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        began = time.monotonic()
        with pytest.raises(DataError, match=r"cannot be reached \(timed out\)"):
            load()
        assert time.monotonic() - began < 5


def test_a_full_disk_leaves_nothing(mirror: Mirror, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left on device"):
            load()
    assert left(raw) == set()
    assert len(load().train) == TRAIN


CHILD = """
import json, sys
from labkit import data
data.MIRRORS, data.ARCHIVES = json.loads(sys.argv[1])
print(data.load().sha256)
"""


@pytest.mark.slow
def test_two_processes_download_once(mirror: Mirror, raw: Path) -> None:
    told = json.dumps([data.MIRRORS, data.ARCHIVES])
    both = [subprocess.Popen([sys.executable, "-c", CHILD, told], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {child.communicate(timeout=120)[0].strip() for child in both}
    assert said == {load().sha256}
    assert set(mirror.asked.values()) == {1}
    assert len(left(raw)) == 4
