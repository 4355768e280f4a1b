"""The whole report: run every notebook, render what they hold, put it in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import nbformat

from labkit.report import summary
from labkit.report.chapter import Chapter, read_chapter
from labkit.report.index import index_page
from labkit.report.plan import Plan, Refusal
from labkit.report.progress import Outcome, progress_on
from labkit.report.publish import publish, staging
from labkit.report.render import chapter_page
from labkit.report.run import run_notebook


def make_report(plan: Plan, stream: TextIO) -> list[Outcome]:
    """Run, render and publish.

    Args:
        plan: what to run and where the report goes.
        stream: where progress is told: live in a terminal, quietly elsewhere.

    Returns:
        how each notebook ended. The report is there whatever they are.

    Raises:
        Refusal: the folder cannot be written; nothing was run.
        Unpublished: the report is made, and could not be put in its place.
        KeyboardInterrupt: nothing was published; the old report stands.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with ExitStack() as stack:
        try:
            staged = stack.enter_context(staging(plan.folder)) / "report"
            (staged / "notebooks").mkdir(parents=True)
        except OSError as error:
            raise Refusal([f"--out {plan.folder}: cannot be written ({error.strerror}); give another"]) from None
        outcomes = _run(plan, staged / "notebooks", stream)
        chapters = [read_chapter(staged / "notebooks" / path.name) for path in plan.notebooks]
        write_report(chapters, plan.facts, started, staged)
        publish(staged, plan.folder)
    return outcomes


def _run(plan: Plan, target: Path, stream: TextIO) -> list[Outcome]:
    progress = progress_on(stream, target.parent.parent / "progress")
    outcomes = []
    try:
        for position, source in enumerate(plan.notebooks, start=1):
            # One more than there are: papermill adds a cell with the parameters.
            cells = len(nbformat.read(source, as_version=4).cells) + 1
            progress.start(source.stem, position, len(plan.notebooks), cells)
            # What `auto` found is settled once: the chapters of one report must not differ in their data.
            parameters = plan.params.model_dump() | {"dataset": plan.facts["dataset"]}
            outcome = run_notebook(source, target / source.name, parameters, progress, plan.params.cell_timeout)
            progress.finish(outcome)
            outcomes.append(outcome)
    finally:
        progress.close()
    return outcomes


def write_report(chapters: Sequence[Chapter], facts: Mapping[str, Any], started: str, folder: Path) -> None:
    """Write everything but the notebooks: pages, figures, ``summary.json`` and ``results.csv``.

    Args:
        chapters: as executed, in order.
        facts: see :func:`labkit.report.summary.surroundings`.
        started: when, ISO 8601 in UTC.
        folder: where to.
    """
    chapters = _distinct_figures(chapters)
    figures = {f"figures/{f.name}.png": f.png for c in chapters for f in c.figures.values()}
    notebooks = [f"notebooks/{c.name}.ipynb" for c in chapters]
    names = ["index.html", "summary.json", "results.csv", *(c.page for c in chapters), *notebooks, *figures]
    provenance = summary.provenance(facts, chapters, started, names)
    texts = {c.page: chapter_page(c, chapters, provenance) for c in chapters}
    texts["index.html"] = index_page(chapters, provenance)
    texts["summary.json"] = summary.summary(chapters, provenance)
    texts["results.csv"] = summary.table(chapters)
    (folder / "figures").mkdir(exist_ok=True)
    for name, content in figures.items():
        (folder / name).write_bytes(content)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _distinct_figures(chapters: Sequence[Chapter]) -> list[Chapter]:
    """The chapters, a figure whose name is taken renamed after its chapter and place."""
    taken: set[str] = set()
    renamed = []
    for chapter in chapters:
        figures = {}
        for (cell, output), figure in chapter.figures.items():
            name = figure.name if figure.name not in taken else f"{chapter.name}_{figure.name}_{cell + 1}_{output + 1}"
            taken.add(name)
            figures[cell, output] = replace(figure, name=name)
        renamed.append(replace(chapter, figures=figures))
    return renamed
