"""What a notebook found out: shown, carried by its outputs, and kept for the sentences and figures that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from labkit import display
from labkit.results import Check, Row, find


class Record:
    """Rows and checks, in the order in which they were recorded.

    Attributes:
        rows, checks: so far.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.checks: list[Check] = []

    def record(self, rows: Sequence[Row], caption: str = "") -> None:
        """Show rows as a table and carry them."""
        self.rows += rows
        display.show_rows(rows, caption)

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        """The recorded rows, as dicts, whose entries equal all of ``wanted``; in their order."""
        return find([r.as_dict() for r in self.rows], **wanted)

    def one(self, **wanted: Any) -> dict[str, Any]:
        """The one recorded row that fits, the latest if a cell was run again.

        Raises:
            LookupError: there is none.
        """
        rows = self.find(**wanted)
        if not rows:
            raise LookupError(f"no row with {wanted} was recorded; run the cell that measures it first")
        return rows[-1]

    def check(self, *checks: Check) -> None:
        """Show checks and carry them."""
        self.checks += checks
        display.show_checks(checks)

    def say(self, text: str) -> None:
        """Show a sentence (Markdown) whose numbers come from rows."""
        display.show_text(text)

    def finding(self, text: str) -> None:
        """Show a sentence that the report's first screen repeats."""
        display.show_finding(text)

    def figure(self, figure: Figure, name: str, alt: str, *, main: bool = False) -> None:
        """Show a figure with its alternative text; ``main`` puts it on the report's first page."""
        display.show_figure(figure, name, alt, main=main)
