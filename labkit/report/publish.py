"""A report appears file by file, whole, and takes away nothing but the report that was there before."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# What a report consists of; nothing else in its folder is ever removed.
_OURS = re.compile(r"figures/[^/]+\.png|notebooks/[^/]+\.ipynb|\d+_[^/]+\.html|index\.html|summary\.json|results\.csv")


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
    place = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    lock = FileLock(place / "lock")
    try:
        lock.acquire()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def publish(staged: Path, folder: Path) -> None:
    """Move everything under ``staged`` to ``folder``, ``index.html`` last; then remove what the old report left.

    Files of the old report are those that its ``summary.json`` lists, and only where their names are a report's.

    Raises:
        Unpublished: a file cannot be put in its place. It and those that were to follow lie in a folder of their own,
            beside what was there and the files that had been put there already, or with the system's temporary files.
    """
    old = _listed(folder / "summary.json")
    new = sorted(str(p.relative_to(staged)) for p in staged.rglob("*") if p.is_file())
    for name in sorted(new, key=lambda n: (n == "index.html", n)):
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged / name, target)
        except OSError as error:
            kept = _kept(staged, folder)
            raise Unpublished(
                f"the report is made, but {target} cannot be put in place ({error.strerror}); it and what was to "
                f"follow lie in {kept}: make room for them and move them, or run again, finished work is in the store"
            ) from error
    for name in old - set(new):
        with suppress(OSError):  # somebody has put a folder there
            (folder / name).unlink(missing_ok=True)
    for leaf in ("figures", "notebooks"):
        with suppress(OSError):  # not there, or not empty
            (folder / leaf).rmdir()


def _kept(staged: Path, folder: Path) -> Path:
    """Where the report lies now; not below ``folder`` if that cannot be written any more."""
    try:
        return staged.rename(tempfile.mkdtemp(prefix="unpublished-", dir=folder))
    except OSError:
        return Path(shutil.copytree(staged, tempfile.mkdtemp(prefix="unpublished-"), dirs_exist_ok=True))


def _listed(summary: Path) -> set[str]:
    try:
        names = json.loads(summary.read_text(encoding="utf-8"))["provenance"]["files"]
        return {name for name in names if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
