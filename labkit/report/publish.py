"""A report appears file by file, whole. It replaces files of a report's names, and removes nothing but what is left of
the report that was there before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from labkit.store import write_whole

# What a report consists of; nothing else in its folder is ever removed.
_OURS = re.compile(r"figures/[^/]+\.png|notebooks/[^/]+\.ipynb|\d+_[^/]+\.html|index\.html|summary\.json|results\.csv")


_LAST = ("summary.json", "index.html")  # put in their places when all others are: what is a report's, and its face
_UNDER_WAY = ".publishing.json"  # what a report that is being put in place brings, in a summary's form


class Unpublished(Exception):
    """A report that is made and could not be put in its place; the message says where it lies."""


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A place in ``folder`` to make a report in; gone afterwards, whatever happens, with what is still in it.

    A place that a killed run left behind goes too: its lock is free.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(".staging-*"):
        with suppress(OSError, Timeout), FileLock(old / "lock", timeout=0):
            shutil.rmtree(old, ignore_errors=True)
    place, lock = _place(folder)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def _place(folder: Path) -> tuple[Path, FileLock]:
    """A new place and its lock, taken; another one where a start that took it for a killed run's has removed it."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
        lock = FileLock(place / "lock")
        with suppress(FileNotFoundError):
            lock.acquire()
            if (place / "lock").exists():
                return place, lock
        lock.release()


def publish(staged: Path, folder: Path) -> None:
    """Move everything under ``staged`` to ``folder``; before the last two files, remove what the old report left.

    Files of the old report are those that its ``summary.json`` lists, and only where their names are a report's. That
    list is replaced when they are gone, and what is put in place stands in another one before: a run that is killed
    meanwhile leaves nothing that the next cannot remove.

    An interrupt (SIGINT, SIGTERM) is not heeded meanwhile: it would leave half of one report and half of another.

    Raises:
        Unpublished: a file cannot be put in its place. It and those that were to follow lie in a folder of their own,
            beside what was there and the files that had been put there already, or with the system's temporary files.
    """
    old = _listed(folder / "summary.json") | _listed(folder / _UNDER_WAY)
    new = sorted(str(p.relative_to(staged)) for p in staged.rglob("*") if p.is_file())
    listed = json.dumps({"provenance": {"files": sorted(old | set(new))}})
    with _deaf():
        with suppress(OSError):  # nothing else can be put there either, which is told then
            write_whole(folder / _UNDER_WAY, listed.encode())
        for name in new:
            if name not in _LAST:
                _put(staged, folder, name)
        for name in old - set(new):
            with suppress(OSError):  # somebody has put a folder there
                (folder / name).unlink(missing_ok=True)
        for leaf in ("figures", "notebooks"):
            with suppress(OSError):  # not there, or not empty
                (folder / leaf).rmdir()
        for name in _LAST:
            if name in new:
                _put(staged, folder, name)
        with suppress(OSError):  # the next publication removes it
            (folder / _UNDER_WAY).unlink(missing_ok=True)


def _put(staged: Path, folder: Path, name: str) -> None:
    target = folder / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, target)
    except OSError as error:
        raise Unpublished(
            f"the report is made, but {target} cannot be put in place ({error.strerror}); it and what was to "
            f"follow {_kept(staged, folder)}; or run again, finished work is in the store"
        ) from error


@contextmanager
def _deaf() -> Iterator[None]:
    """Interrupts are lost on this process; where signals are not this thread's to set, they are not."""
    before = {}
    with suppress(ValueError):
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kept(staged: Path, folder: Path) -> str:
    """Keep the report, not below ``folder`` if that cannot be written any more, and say where."""
    try:
        kept = staged.rename(tempfile.mkdtemp(prefix="unpublished-", dir=folder))
    except OSError:
        try:
            kept = Path(shutil.copytree(staged, tempfile.mkdtemp(prefix="unpublished-"), dirs_exist_ok=True))
        except (OSError, shutil.Error) as error:
            return f"cannot be kept elsewhere either ({error}): make room"
    return f"lie in {kept}: make room for them and move them"


def _listed(summary: Path) -> set[str]:
    try:
        names = json.loads(summary.read_text(encoding="utf-8"))["provenance"]["files"]
        return {name for name in names if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
