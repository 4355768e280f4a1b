"""A chapter: what the report takes from one executed notebook."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from labkit.report.progress import Outcome
from labkit.results import collect


@dataclass(frozen=True)
class Figure:
    """A picture in a notebook's output.

    Attributes:
        name: file name without ending.
        alt: what it says, for somebody who cannot see it; never empty.
        main: the chapter's main figure.
        width: in CSS pixels, or None where the notebook did not say.
        png: the image file.
    """

    name: str
    alt: str
    main: bool
    width: int | None
    png: bytes

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Chapter:
    """One executed notebook and what it carries; ``rows``, ``checks`` and ``findings`` as ``results.collect`` gives."""

    outcome: Outcome
    title: str
    notebook: nbformat.NotebookNode
    rows: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    findings: list[dict[str, str]]
    provenance: dict[str, Any]
    figures: dict[tuple[int, int], Figure]  # by index of the cell and of its output

    @property
    def name(self) -> str:
        return self.outcome.name

    @property
    def number(self) -> str:
        """``2`` of ``02_robustness``."""
        return self.name.split("_")[0].lstrip("0") or "0"

    @property
    def short_title(self) -> str:
        """The title up to its colon."""
        return self.title.partition(":")[0]

    @property
    def page(self) -> str:
        return f"{self.name}.html"

    @property
    def main_figure(self) -> Figure | None:
        """The figure marked as main, else the first, else None."""
        figures = list(self.figures.values())
        return next((f for f in figures if f.main), figures[0] if figures else None)

    @property
    def failed_checks(self) -> list[dict[str, Any]]:
        return [check for check in self.checks if not check["passed"]]


def read_chapter(path: Path) -> Chapter:
    """The chapter in an executed notebook that :func:`labkit.report.run.run_notebook` wrote."""
    notebook = nbformat.read(path, as_version=4)
    name = path.stem
    found = collect(notebook, name)
    outcome = Outcome(name, **notebook.metadata["labkit"])
    return Chapter(outcome, _title(notebook, name), notebook, figures=_figures(notebook, name), **found)


def _title(notebook: nbformat.NotebookNode, name: str) -> str:
    for cell in notebook.cells:
        match = cell.cell_type == "markdown" and re.search(r"^#\s+(.+?)\s*#*$", cell.source, re.MULTILINE)
        if match:
            # The number stands beside the title wherever it is shown.
            return re.sub(r"^(?:chapter\s+)?\d+\s*[.:·–—-]\s*", "", re.sub(r"[*`$]", "", match[1]), flags=re.IGNORECASE)
    return name.partition("_")[2].replace("_", " ").capitalize() or name


def _figures(notebook: nbformat.NotebookNode, chapter: str) -> dict[tuple[int, int], Figure]:
    figures: dict[tuple[int, int], Figure] = {}
    for i, cell in enumerate(notebook.cells):
        for j, output in enumerate(cell.get("outputs", [])):
            png = output.get("data", {}).get("image/png")
            if not png:
                continue
            labels = output.get("metadata", {}).get("labkit", {})
            given = re.sub(r"[^A-Za-z0-9_-]", "_", labels.get("figure", ""))
            figures[i, j] = Figure(
                name=given or f"{chapter}_{len(figures) + 1}",
                alt=labels.get("alt") or f"Figure without a description, from cell {i + 1} of {chapter}",
                main=bool(labels.get("main")),
                width=labels.get("width"),
                png=base64.b64decode(png),
            )
    return figures
