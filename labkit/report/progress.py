"""Who is running, which cell, how long: a live line in a terminal, two quiet lines a notebook elsewhere."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from labkit.progress import LINE_SECONDS, duration


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended.

    Attributes:
        name: the notebook's stem, e.g. ``02_robustness``.
        status: ``done`` or ``failed``.
        reason: why it failed, in a line; None if it is done.
        cell: the cell it failed in, counted from 1 over all cells of the executed notebook, and 1 where its kernel
            never started; None if it is done.
        seconds: wall-clock time.
    """

    name: str
    status: str
    reason: str | None = None
    cell: int | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.status != "done"

    def sentence(self) -> str:
        """``failed in cell 7 after 12 s: ValueError: ...``"""
        if not self.failed:
            return f"done in {duration(self.seconds)}"
        where = f" in cell {self.cell}" if self.cell else ""
        return f"FAILED{where} after {duration(self.seconds)}: {self.reason}"


class Log:
    """One line when a notebook starts and one when it ends, and one a minute on the long work inside.

    Args:
        stream: where to.
        note: the file in which the running notebook says how far its long work is, see :mod:`labkit.progress`.
    """

    every = LINE_SECONDS  # seconds between looks at the note

    def __init__(self, stream: TextIO, note: Path):
        self.stream, self.note = stream, note
        self.stopped = threading.Event()
        self.stopped.set()

    def start(self, name: str, position: int, count: int, cells: int) -> None:
        self.place = f"[{position}/{count}] {name}"
        self._line(f"{self.place}: {cells} cells")
        self._watch()

    def cell(self, number: int) -> None:
        """A cell has started; a log does not say so."""

    def finish(self, outcome: Outcome) -> None:
        self.close()
        self._line(f"{self.place}: {outcome.sentence()}")

    def close(self) -> None:
        """Stop looking at the note; leave the terminal as it was."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.watcher.join()

    def _watch(self) -> None:
        self.stopped.clear()
        self.watcher = threading.Thread(target=self._look, daemon=True)
        self.watcher.start()

    def _look(self) -> None:
        while not self.stopped.wait(self.every):
            self._tell(self._noted())

    def _noted(self) -> str:
        try:
            return self.note.read_text(encoding="utf-8")
        except OSError:
            return ""

    def _tell(self, work: str) -> None:
        if work:
            self._line(f"{self.place}: {work}")

    def _line(self, text: str) -> None:
        # A reader that has gone away (a closed pipe) is no reason to stop the work.
        with suppress(OSError, ValueError):
            print(text, file=self.stream, flush=True)


class Live(Log):
    """A bar a notebook that names the running cell, and what its long work says of itself."""

    every = 1.0

    def start(self, name: str, position: int, count: int, cells: int) -> None:
        self.place = f"[{position}/{count}] {name}"
        self.bar = tqdm(
            total=cells,
            file=self.stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {elapsed}{postfix}",
            desc=f"{self.place}: starting",
        )
        self._watch()

    def cell(self, number: int) -> None:
        self.bar.set_description_str(f"{self.place}: cell {number} of {self.bar.total}", refresh=False)
        self.bar.update(number - 1 - self.bar.n)
        self.bar.refresh()

    def close(self) -> None:
        if not self.stopped.is_set():
            super().close()
            self.bar.close()

    def _tell(self, work: str) -> None:
        self.bar.set_postfix_str(work, refresh=True)


def progress_on(stream: TextIO, note: Path) -> Log:
    """A live line if ``stream`` is a terminal, else a quiet log."""
    return Live(stream, note) if stream.isatty() else Log(stream, note)
