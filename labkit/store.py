"""Finished work on disk, addressed by what made it; atomic, checksummed, safe to share.

An entry is a safetensors file with its key and metadata beside it. It is written under a temporary name
and renamed when it is whole, so a reader never sees half an entry; a lock lets two processes that want
the same entry make it once. An entry that does not match its checksum is removed, under the lock, and made again; one
that cannot be read is an error.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors

from labkit.progress import Bar, Tick, unseen
from labkit.workers import check_crew

log = logging.getLogger(__name__)

PATIENCE = 0.5  # seconds that a thread waits for another's entry before it looks whether its crew still works

Tensors = dict[str, torch.Tensor]
Make = Callable[[int, Tick], tuple[Tensors, dict]]

# labkit's sources as they were when it was imported: a file that is edited under a kernel is not what the kernel runs.
_RUNNING = {str(path): path.read_bytes() for path in Path(__file__).parent.rglob("*.py")}


def user_folder(variable: str, leaf: str) -> Path:
    """The folder that an environment variable names, or ``leaf`` in the user's cache folder.

    A relative path counts from where the command was started, also in the kernels that it starts.
    """
    named = os.environ.get(variable)
    if not named:
        return Path(platformdirs.user_cache_dir("labkit")) / leaf
    return Path(_started_in(), Path(named).expanduser()).resolve()


def _started_in() -> str:
    """The folder in which the command was started that this process, or its kernel, belongs to."""
    if "LABKIT_START" in os.environ:  # set by labkit's command line
        return os.environ["LABKIT_START"]
    if "JPY_SESSION_NAME" in os.environ:  # a Jupyter server's kernel runs in its notebook's folder
        return os.environ.get("PWD", os.getcwd())
    return os.getcwd()


@cache
def code_version(*modules: str) -> str:
    """Checksum of the source that results of the named modules rest on, and of torch's version: to be part of a key.

    Raises:
        ValueError: a module whose source is not to be found.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for name in sources(*modules):
        digest.update(_source(name))
    return digest.hexdigest()[:16]


def sources(*modules: str) -> list[str]:
    """The named modules and all of labkit that they import, directly or not.

    Of a package the module that is named, or its face. Without the store, which makes no number, and the parameters,
    whose values are in the keys.
    """
    met: set[str] = set()
    ahead = list(modules)
    while ahead:
        if (name := ahead.pop()) not in met:
            met.add(name)
            ahead += [used for used in _imports(name) if used not in ("labkit.store", "labkit.params")]
    return sorted(met)


def _imports(module: str) -> Iterator[str]:
    """What of labkit a module's source imports."""
    for node in ast.walk(ast.parse(_source(module))):
        if getattr(node, "level", 0):
            raise ValueError(f"{module}, line {node.lineno}: a relative import; name the module in full")
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("labkit."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "labkit":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if importlib.util.find_spec(node.module).submodule_search_locations and importlib.util.find_spec(inner):
                    yield inner
                elif node.module != "labkit":
                    yield node.module


def _source(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no source of module {module!r} to be found")
    return _RUNNING.get(spec.origin) or Path(spec.origin).read_bytes()


def checksum(*tensors: torch.Tensor, head: str = "") -> str:
    """Of tensors, on any device: their types, shapes and bytes, and of ``head`` before them."""
    digest = hashlib.sha256(head.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class _Damage(ValueError):
    """An entry that is not as it was written."""


class Store:
    """A folder of finished work.

    Args:
        root: where entries lie; by default ``LABKIT_CACHE``, or the user's cache folder.
    """

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root is not None else user_folder("LABKIT_CACHE", "store")

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[], tuple[Tensors, dict]]) -> tuple[Tensors, dict]:
        """The entry under ``key``, made by ``make()`` if there is none.

        Args:
            kind: a folder's name, for people who look: ``classifier``, ``mixture``, ...
            key: everything that determines the result, JSON-ready.
            make: computes ``(tensors, facts)``: tensors by name, on any device, and JSON-ready facts.

        Returns:
            ``(tensors, facts)``, the tensors on the CPU.

        Where what was made cannot be written, because the disk is full, say, it is returned all the same, with a
        warning.

        Raises:
            OSError: the folder, or the entry, cannot be read or written, as known before anything is made; the message
                names ``LABKIT_CACHE``.
            Stopped: the entry is being made elsewhere, and the crew that waits for it has failed.
        """
        path = self._path(kind, key)
        with self._locked(path):
            try:
                entry = self._read(path)
            except _Damage as damage:
                log.warning("store: %s is damaged (%s); it is made again", path.name, damage)
                with self._told("written"):
                    for part in (path, path.with_suffix(".json")):
                        part.unlink(missing_ok=True)
                entry = None
            if entry is None:
                tensors, facts = make()
                # Copies: safetensors refuses tensors that share memory, and the caller may go on with its own.
                tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
                entry = tensors, json.loads(json.dumps(facts))  # as the next caller reads them
                try:
                    with self._told("written"):
                        self._write(path, tensors, {"key": key, "facts": entry[1]})
                except OSError as error:
                    log.warning("%s, or make room; going on with what was made, which is not kept", error)
            return entry

    def gather(
        self, kind: str, keys: Sequence[Mapping[str, Any]], make: Make, sizes: Sequence[int], bar: Bar = unseen
    ) -> list[tuple[Tensors, dict]]:
        """:meth:`get` of several entries, with one bar for those that are made now.

        Args:
            kind, keys: as for :meth:`get`.
            make: makes the entry of a key's place, and ticks.
            sizes: what each ticks in all.
            bar: shown where there is something to make.
        """
        entries = [self.find(kind, key) for key in keys]
        if missing := [place for place, entry in enumerate(entries) if entry is None]:
            with bar(sum(sizes[place] for place in missing)) as tick:
                for place in missing:
                    entries[place] = self.get(kind, keys[place], partial(make, place, tick))
        return entries

    def find(self, kind: str, key: Mapping[str, Any]) -> tuple[Tensors, dict] | None:
        """The entry under ``key`` as :meth:`get` returns it; None where there is none, or a damaged one.

        Raises:
            OSError: it cannot be read; the message names ``LABKIT_CACHE``.
        """
        with suppress(_Damage):
            return self._read(self._path(kind, key))
        return None

    def _path(self, kind: str, key: Mapping[str, Any]) -> Path:
        address = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.root / kind / f"{address}.safetensors"

    def probe(self) -> None:
        """Find out whether the store can be written, before any work is done.

        Raises:
            OSError: it cannot; the message names ``LABKIT_CACHE``.
        """
        with self._told("written"):
            self.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root).close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the store {self.root} cannot be {what} ({error.strerror}); set LABKIT_CACHE to a folder that can"
            ) from error

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Nobody else makes the entry meanwhile."""
        with self._told("written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            while not lock.is_locked:
                check_crew()
                with suppress(Timeout):
                    lock.acquire(timeout=PATIENCE)
        try:
            yield
        finally:
            lock.release()

    def _read(self, path: Path) -> tuple[Tensors, dict] | None:
        """The entry, None where one of its files is missing.

        Raises:
            _Damage: the files are there, and not as they were written.
        """
        with self._told("read"):
            try:
                note, content = path.with_suffix(".json").read_bytes(), path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            told = json.loads(note)
            if self._path(path.parent.name, told["key"]) != path or _sum(content, told) != told["sha256"]:
                raise ValueError("its checksum does not match")
            return parse_tensors(content), told["facts"]
        except (ValueError, KeyError, TypeError) as error:
            raise _Damage(error) from None

    def _write(self, path: Path, tensors: Tensors, note: dict) -> None:
        content = serialise_tensors(tensors)
        note = {**note, "sha256": _sum(content, note)}
        for stray in path.parent.glob(f".{path.stem}.*"):  # of a run that was killed while it wrote
            stray.unlink(missing_ok=True)
        # The sidecar goes last: an entry counts only when both are there.
        write_whole(path, content)
        write_whole(path.with_suffix(".json"), json.dumps(note, indent=1, sort_keys=True).encode())


def _sum(content: bytes, note: Mapping[str, Any]) -> str:
    """Checksum of an entry's tensors, and of its key and facts as they are read back."""
    told = json.dumps({part: note[part] for part in ("key", "facts")}, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(content).digest() + told.encode()).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name beside ``path``, then rename: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
