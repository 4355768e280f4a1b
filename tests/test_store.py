"""The store: made once, whole or not at all, mended when damaged, and safe to share."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from test_architecture import imports

import labkit
from labkit.store import Store, code_version, sources, user_folder, write_whole
from labkit.workers import Crew

KEY = {"recipe": {"epochs": 3}, "seed": 0}


class Maker:
    """Counts how often it was asked to make the entry."""

    calls = 0

    def __call__(self) -> tuple[dict, dict]:
        self.calls += 1
        return {"weights": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}, {"loss": 0.5, "curve": (1, 2)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def make() -> Maker:
    return Maker()


def entry(store: Store, ending: str) -> Path:
    return next((store.root / "classifier").glob(f"*{ending}"))


def test_the_same_key_is_made_once(store: Store, make: Maker) -> None:
    made = store.get("classifier", KEY, make)
    read = Store(store.root).get("classifier", {"seed": 0, "recipe": {"epochs": 3}}, make)
    assert make.calls == 1
    assert made[1] == read[1] == {"loss": 0.5, "curve": [1, 2]}
    assert made[0].keys() == read[0].keys()
    assert all(torch.equal(made[0][name], read[0][name]) for name in made[0])


def test_another_key_or_kind_is_another_entry(store: Store, make: Maker) -> None:
    for kind, key in (("classifier", KEY), ("classifier", KEY | {"seed": 1}), ("mixture", KEY)):
        store.get(kind, key, make)
    assert make.calls == 3


def test_the_entry_says_what_made_it(store: Store, make: Maker) -> None:
    store.get("classifier", KEY, make)
    assert json.loads(entry(store, ".json").read_text())["key"] == KEY


def test_tensors_of_any_kind_come_back_equal(store: Store) -> None:
    whole = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tensors = {
        "whole": whole,
        "row, sharing its memory": whole[0],
        "transposed": whole.t(),
        "expanded": whole[:1].expand(3, 6),
        "half": whole.bfloat16(),
        "members": whole > 0,
        "empty": torch.zeros(0, 3),
    }
    for _ in range(2):
        found, _facts = store.get("classifier", KEY, lambda: (tensors, {}))
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert not any(tensor.requires_grad for tensor in found.values())
    found["whole"].zero_()
    assert whole.abs().sum() > 0


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": (".safetensors", flip_a_bit),
    "truncated": (".safetensors", lambda path: path.write_bytes(path.read_bytes()[:-4])),
    "emptied": (".safetensors", lambda path: path.write_bytes(b"")),
    "tensors gone": (".safetensors", Path.unlink),
    "note gone": (".json", Path.unlink),
    "note truncated": (".json", lambda path: path.write_text(path.read_text()[:20])),
    "note binary": (".json", lambda path: path.write_bytes(b"\xff\x00")),
    "note without checksum": (".json", lambda path: path.write_text("{}")),
    "note of another form": (".json", lambda path: path.write_text("[1]")),
    "note null": (".json", lambda path: path.write_text("null")),
    "a fact changed": (
        ".json",
        lambda path: path.write_text(path.read_text().replace('"facts": {', '"facts": {"x": 1, ')),
    ),
    "another's key": (".json", lambda path: path.write_text(path.read_text().replace('"key": {', '"key": {"x": 1, '))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_made_again(store: Store, make: Maker, name: str) -> None:
    made = store.get("classifier", KEY, make)
    ending, damage = DAMAGES[name]
    damage(entry(store, ending))
    for _ in range(2):
        again = store.get("classifier", KEY, make)
        assert torch.equal(again[0]["weights"], made[0]["weights"])
    assert make.calls == 2


def test_looking_for_a_damaged_entry_leaves_it_to_who_makes_it(store: Store, make: Maker) -> None:
    store.get("classifier", KEY, make)
    flip_a_bit(entry(store, ".safetensors"))
    assert store.find("classifier", KEY) is None
    assert entry(store, ".safetensors").exists()
    assert entry(store, ".json").exists()
    store.get("classifier", KEY, make)
    assert store.find("classifier", KEY) is not None
    assert make.calls == 2


def test_an_entry_that_cannot_be_read_is_told_and_stays(store: Store, make: Maker, monkeypatch) -> None:
    store.get("classifier", KEY, make)

    def broken(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    for look in (lambda: store.get("classifier", KEY, make), lambda: store.find("classifier", KEY)):
        with pytest.raises(OSError, match=r"cannot be read \(Input/output error\); set LABKIT_CACHE"):
            look()
    monkeypatch.undo()
    store.get("classifier", KEY, make)
    assert make.calls == 1


def test_what_cannot_be_kept_is_not_lost(store: Store, make: Maker, monkeypatch, caplog) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tensors, facts = store.get("classifier", KEY, make)
    assert torch.equal(tensors["weights"], torch.arange(6.0).reshape(2, 3))
    assert facts == {"loss": 0.5, "curve": [1, 2]}
    assert "cannot be written (No space left on device); set LABKIT_CACHE" in caplog.text
    monkeypatch.undo()
    assert store.find("classifier", KEY) is None
    store.get("classifier", KEY, make)
    assert make.calls == 2


def test_a_wait_for_another_s_entry_ends_with_the_crew(store: Store, make: Maker, monkeypatch) -> None:
    """An interrupt, say, reaches the main thread only."""
    store.get("classifier", KEY, make)
    waits = threading.Event()
    held = FileLock(entry(store, ".lock"), thread_local=False)

    def work(index: int) -> None:
        if index == 0:
            assert waits.wait(10)
            raise KeyboardInterrupt
        waits.set()
        store.get("classifier", KEY, make)

    monkeypatch.setattr("labkit.store.PATIENCE", 0.05)
    rescue = threading.Timer(10, held.release, [True])
    rescue.start()
    with held, pytest.raises(KeyboardInterrupt), Crew(2) as crew:
        crew.map(work, [0, 1])
    assert rescue.is_alive()
    rescue.cancel()


def test_a_failed_make_leaves_nothing(store: Store, make: Maker) -> None:
    def fail() -> tuple[dict, dict]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.get("classifier", KEY, fail)
    assert {path.suffix for path in (store.root / "classifier").iterdir()} <= {".lock"}
    store.get("classifier", KEY, make)
    assert make.calls == 1


def test_a_half_written_entry_is_never_seen(store: Store, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(source: str, target: Path) -> None:
        # When the whole file takes its name, nothing of that name was there before.
        seen.append((Path(target).suffix, Path(target).exists(), Path(source).stat().st_size > 0))
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", watched)
    store.get("classifier", KEY, make)
    assert seen == [(".safetensors", False, True), (".json", False, True)]


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_root_that_cannot_be_written(tmp_path: Path, make: Maker) -> None:
    (tmp_path / "taken").write_text("a file in the folder's place")
    with pytest.raises(OSError, match=r"taken cannot be written .* set LABKIT_CACHE"):
        Store(tmp_path / "taken").get("classifier", KEY, make)
    assert make.calls == 0


def test_folders_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_START", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_CACHE", "here/store")
    assert Store().root == tmp_path / "here" / "store"
    # Inside a kernel the working directory is another one, and the folder is still the same.
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("LABKIT_START", str(tmp_path))
    assert Store().root == tmp_path / "here" / "store"
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "absolute"))
    assert Store().root == tmp_path / "absolute"
    for unset in (lambda: monkeypatch.setenv("LABKIT_CACHE", ""), lambda: monkeypatch.delenv("LABKIT_CACHE")):
        unset()
        assert user_folder("LABKIT_CACHE", "store").parts[-2:] == ("labkit", "store")


def test_code_version_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "recipe_under_test.py"

    def version(source: str) -> str:
        module.write_text(source)
        importlib.invalidate_caches()
        code_version.cache_clear()  # one process sees one version
        return code_version("recipe_under_test", "labkit.store")

    assert version("rate = 1\n") != version("rate = 2\n")
    assert version("rate = 1\n") == version("rate = 1\n")
    assert version("rate = 1\n") != code_version("labkit.store")
    with pytest.raises(ValueError, match="no source of module 'labkit_none'"):
        code_version("labkit_none")


def test_the_code_of_a_running_lab_is_the_one_it_was_imported_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody edits while a kernel runs must not become part of the key of what the old code makes."""
    found = code_version("labkit.intervals")
    code_version.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"edited = True\n")
    assert code_version("labkit.intervals") == found
    code_version.cache_clear()


def test_what_a_killed_run_left_half_written_goes(store: Store, make: Maker) -> None:
    store.get("classifier", {"seed": 1}, make)
    (path,) = (store.root / "classifier").glob("*.safetensors")
    path.unlink()
    for end in ("safetensors.abc", "json.def"):
        path.with_name(f".{path.stem}.{end}").write_bytes(b"half")
    store.get("classifier", {"seed": 1}, make)
    assert {p.suffix for p in path.parent.iterdir()} == {".safetensors", ".json", ".lock"}


HOUSE = Path(labkit.__file__).parent
GIVES = re.compile(r"store\.(?:get|gather)\(")
KEPT = {  # modules that keep results, and what their numbers rest on, or do not
    "training.ensemble": ({"training.loop", "training.capture", "attacks.ascent", "workers"}, {"attacks.ensemble"}),
    "robustness": ({"attacks.ensemble", "attacks.random_search", "workers"}, {"mixture.classifier"}),
    "mixture.selection": ({"mixture.em", "device", "workers"}, {"mixture"}),
    "frontier": ({"training.accounting", "training.linear", "features", "data", "device"}, {"training.loop"}),
    "generative.cvae": ({"generative.networks", "device"}, {"generative.bayes"}),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_result_rests_on_is_closed_under_imports(name: str) -> None:
    found = sources(f"labkit.{name}")
    inside, outside = ({f"labkit.{module}" for module in modules} for modules in KEPT[name])
    assert inside <= set(found)
    assert not outside & set(found)  # AutoAttack may change without a model being trained anew
    for module in found:
        path = HOUSE.joinpath(*module.split(".")[1:])
        used = imports(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
        there = {module for module in used if module.startswith("labkit.")} - {"labkit.store", "labkit.params"}
        # Of a package something: the module that is named, or all that its face imports.
        assert all(any(f"{have}.".startswith(f"{module}.") for have in found) for module in there), module


def test_every_key_holds_the_code_and_how_sums_are_rounded() -> None:
    keepers = {path: text for path in HOUSE.rglob("*.py") if GIVES.search(text := path.read_text())}
    assert {str(path.relative_to(HOUSE))[:-3].replace("/", ".") for path in keepers} == set(KEPT)
    for text in keepers.values():
        assert text.count("code_version(__name__") == len(GIVES.findall(text)) == len(re.findall(r"\bnumerics\(", text))


def test_a_bar_is_opened_for_what_is_made_now(store: Store) -> None:
    opened, done = [], []

    @contextmanager
    def bar(total: int) -> Iterator[Callable[[int], None]]:
        opened.append(total)
        yield done.append

    def make_one(place: int, tick: Callable[[int], None]) -> tuple[dict[str, torch.Tensor], dict]:
        tick(sizes[place])
        return {"x": torch.full((2,), float(place))}, {"place": place}

    keys, sizes = [{"seed": place} for place in range(4)], [10, 20, 40, 80]
    store.get("classifier", keys[1], lambda: make_one(1, lambda images: None))
    found = store.gather("classifier", keys, make_one, sizes, bar)
    assert (opened, done) == ([130], [10, 40, 80])
    assert [(tensors["x"].tolist(), facts) for tensors, facts in found] == [([p, p], {"place": p}) for p in range(4)]
    store.gather("classifier", keys, make_one, sizes, bar)
    assert opened == [130]


CHILD = """
import sys, time
from pathlib import Path
import torch
from labkit.store import Store

def make():
    with open(sys.argv[2], "a") as asked:
        asked.write("made\\n")
    time.sleep(float(sys.argv[3]))
    return {"x": torch.ones(3)}, {}

print(Store(Path(sys.argv[1])).get("classifier", {"seed": 0}, make)[0]["x"].sum().item())
"""


def start(store: Store, asked: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(store.root), str(asked), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_make_it_once(store: Store, tmp_path: Path) -> None:
    both = [start(store, tmp_path / "asked", 1) for _ in range(2)]
    assert [child.communicate(timeout=120)[0].strip() for child in both] == ["3.0", "3.0"]
    assert (tmp_path / "asked").read_text() == "made\n"


@pytest.mark.slow
def test_killed_while_making(store: Store, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    child = start(store, asked, 600)
    deadline = time.monotonic() + 120
    while not asked.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asked.read_text() == "made\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    tensors, _ = store.get("classifier", {"seed": 0}, lambda: ({"x": torch.zeros(3)}, {}))
    assert tensors["x"].sum() == 0


def test_a_relative_folder_counts_from_where_the_command_was_started(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", "mine")
    monkeypatch.setenv("PWD", str(tmp_path / "server"))
    for name in ("LABKIT_START", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert user_folder("LABKIT_CACHE", "store") == tmp_path / "mine"
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01_utility.ipynb")  # a Jupyter server's kernel
    assert user_folder("LABKIT_CACHE", "store") == tmp_path / "server" / "mine"
    monkeypatch.setenv("LABKIT_START", str(tmp_path / "shell"))  # labkit report
    assert user_folder("LABKIT_CACHE", "store") == tmp_path / "shell" / "mine"
