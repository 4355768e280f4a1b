"""How far long work is: a bar for who looks on, a note for a process that waits, single lines in a log."""

from __future__ import annotations

import html
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import ClassVar

from IPython import get_ipython
from IPython.display import HTML, DisplayHandle, display
from tqdm import tqdm

NOTE = "LABKIT_PROGRESS"  # environment: the file in which a kernel tells the process that waits for it how far it is
NOTE_SECONDS, LINE_SECONDS = 0.5, 60.0
SHOWN_SECONDS = 1.0  # of work after which a bar appears: many short ones would flicker

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
    if NOTE in os.environ:  # papermill's kernel
        teller: _Teller = _Note(total, what)
    elif "JPY_SESSION_NAME" in os.environ:
        teller = _Output(total, what)
    elif not sys.stderr.isatty():
        teller = _Lines(total, what)
    else:
        with tqdm(total=total, desc=what, unit="img", unit_scale=True, leave=False, delay=SHOWN_SECONDS) as bar:
            yield bar.update
        return
    try:
        yield teller.add
    finally:
        teller.close()


class _Teller:
    """Counts, and tells now and then."""

    def __init__(self, total: int, what: str):
        self.total, self.what = total, what
        self.done, self.lock = 0, threading.Lock()
        self.begun = self.told = time.monotonic()

    def add(self, images: int) -> None:
        with self.lock:
            self.done += images
            now = time.monotonic()
            if now - self.told >= self.pause():
                self.told = now
                self.tell(state(self.what, self.done, self.total, now - self.begun))

    def pause(self) -> float:
        """Seconds between two lines."""
        return NOTE_SECONDS

    def tell(self, line: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Note(_Teller):
    """In a file, whose line is replaced."""

    def tell(self, line: str) -> None:
        with suppress(OSError):  # a full disk is no reason to stop the work
            Path(os.environ[NOTE]).write_text(line, encoding="utf-8")

    def close(self) -> None:
        with suppress(OSError):
            Path(os.environ[NOTE]).unlink(missing_ok=True)


class _Lines(_Teller):
    """On standard error, a line after another."""

    def pause(self) -> float:
        return LINE_SECONDS

    def tell(self, line: str) -> None:
        with suppress(OSError, ValueError):  # nor is a reader that has gone away
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if (taken := time.monotonic() - self.begun) >= LINE_SECONDS:
            self.tell(f"{self.what}: {self.done:,} images in {duration(taken)}, {self.done / taken:,.0f} images/s")


class _Output(_Teller):
    """In one output of the cell that runs, beside other work that goes on; empty when all is done."""

    open: ClassVar[dict[_Output, str]] = {}  # a line each
    shown: ClassVar[tuple[int, DisplayHandle] | None] = None  # by which execution, and where
    drawing: ClassVar[threading.Lock] = threading.Lock()

    def tell(self, line: str) -> None:
        bar = f'<progress max="{max(self.total, 1)}" value="{self.done}"></progress>'
        self.draw(f"<div>{bar} {html.escape(line)}</div>")

    def close(self) -> None:
        if self in self.open:
            self.draw(None)

    def draw(self, line: str | None) -> None:
        """This work's line among the others, or the others without it."""
        with self.drawing:
            if line is None:
                del self.open[self]
            else:
                self.open[self] = line
            page, cell = HTML("".join(self.open.values())), get_ipython().execution_count
            if self.shown and self.shown[0] == cell:
                self.shown[1].update(page)
            else:
                _Output.shown = cell, display(page, display_id=True)


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
