"""Who is running, which cell, how long: a live line in a terminal, two quiet lines a notebook elsewhere."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended.

    Attributes:
        name: the notebook's stem, e.g. ``02_robustness``.
        status: ``done`` or ``failed``.
        reason: why it failed, in a line; None if it is done.
        cell: the cell it failed in, counted from 1 over all cells of the executed notebook; None if none was reached.
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


def duration(seconds: float) -> str:
    """Seconds as people say them: ``8.4 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Log:
    """One line when a notebook starts and one when it ends."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def start(self, name: str, position: int, count: int, cells: int) -> None:
        self.place = f"[{position}/{count}] {name}"
        self._line(f"{self.place}: {cells} cells")

    def cell(self, number: int) -> None:
        """A cell has started; a log does not say so."""

    def finish(self, outcome: Outcome) -> None:
        self._line(f"{self.place}: {outcome.sentence()}")

    def close(self) -> None:
        """Leave the terminal as it was."""

    def _line(self, text: str) -> None:
        # A reader that has gone away (a closed pipe) is no reason to stop the work.
        with suppress(OSError, ValueError):
            print(text, file=self.stream, flush=True)


class Live(Log):
    """A bar a notebook that names the running cell and ticks while a long one runs."""

    def start(self, name: str, position: int, count: int, cells: int) -> None:
        self.place = f"[{position}/{count}] {name}"
        self.bar = tqdm(
            total=cells,
            file=self.stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {elapsed}",
            desc=f"{self.place}: starting",
        )
        self.stopped = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)
        self.ticker.start()

    def _tick(self) -> None:
        while not self.stopped.wait(1):
            self.bar.refresh()

    def cell(self, number: int) -> None:
        self.bar.set_description_str(f"{self.place}: cell {number} of {self.bar.total}", refresh=False)
        self.bar.update(number - 1 - self.bar.n)
        self.bar.refresh()

    def finish(self, outcome: Outcome) -> None:
        self.close()
        super().finish(outcome)

    def close(self) -> None:
        if hasattr(self, "stopped") and not self.stopped.is_set():
            self.stopped.set()
            self.ticker.join()
            self.bar.close()


def progress_on(stream: TextIO) -> Log:
    """A live line if ``stream`` is a terminal, else a quiet log."""
    return Live(stream) if stream.isatty() else Log(stream)
