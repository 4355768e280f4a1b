"""How far long work is: a bar for who looks on, a note for a process that waits, single lines in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from tqdm.auto import tqdm

NOTE = "LABKIT_PROGRESS"  # environment: the file in which a kernel tells the process that waits for it how far it is
NOTE_SECONDS, LINE_SECONDS = 0.5, 60.0

Tick = Callable[[int], None]  # called, from any thread, with the number of images that are done
Bar = Callable[[int], AbstractContextManager[Tick]]  # opened once it is known how many images are to be done


def unseen(total: int) -> AbstractContextManager[Tick]:
    """A bar that nobody sees."""
    return nullcontext(lambda images: None)


@contextmanager
def progress(total: int, what: str) -> Iterator[Tick]:
    """How far ``total`` images are; with ``what`` given it is a :data:`Bar`.

    A terminal and JupyterLab show a bar with images/s and the time left. Under ``labkit report`` that is handed to
    the report's own line. A log gets a line a minute, and one at the end of work that took so long.

    Args:
        total: images in all, about.
        what: the work's name.
    """
    if NOTE not in os.environ and (sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ):  # not papermill's kernel
        with tqdm(total=total, desc=what, unit="img", unit_scale=True, leave=False) as bar:
            yield bar.update
        return
    teller = _Teller(total, what, os.environ.get(NOTE))
    try:
        yield teller.add
    finally:
        teller.close()


class _Teller:
    """Counts, and tells now and then: in a note that is replaced, or in lines on standard error."""

    def __init__(self, total: int, what: str, note: str | None):
        self.total, self.what, self.note = total, what, Path(note) if note else None
        self.done, self.lock = 0, threading.Lock()
        self.begun = self.told = time.monotonic()

    def add(self, images: int) -> None:
        with self.lock:
            self.done += images
            now = time.monotonic()
            if now - self.told >= (NOTE_SECONDS if self.note else LINE_SECONDS):
                self.told = now
                self._tell(state(self.what, self.done, self.total, now - self.begun))

    def close(self) -> None:
        if self.note:
            with suppress(OSError):
                self.note.unlink(missing_ok=True)
        elif (taken := time.monotonic() - self.begun) >= LINE_SECONDS:
            self._tell(f"{self.what}: {self.done:,} images in {duration(taken)}, {self.done / taken:,.0f} images/s")

    def _tell(self, line: str) -> None:
        # A full disk, or a reader that has gone away, is no reason to stop the work.
        with suppress(OSError, ValueError):
            if self.note:
                self.note.write_text(line, encoding="utf-8")
            else:
                print(line, file=sys.stderr, flush=True)


def state(what: str, done: int, total: int, seconds: float) -> str:
    """``pgd classifiers: 43 %, 5,312 images/s, 38.0 s left``."""
    rate = done / max(seconds, 1e-9)
    share = min(done / max(total, 1), 1.0)
    left = duration(max(total - done, 0) / rate) if rate else "unknown time"
    return f"{what}: {100 * share:.0f} %, {rate:,.0f} images/s, {left} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``8.4 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
