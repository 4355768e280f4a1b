"""The reader's first screen: the findings, the trade-off's picture and table, the checks that failed, the chapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labkit.membership import HEADLINE
from labkit.plots.style import ATTACK_NAMES, COLOURS, NAMES
from labkit.progress import duration
from labkit.report.chapter import Chapter
from labkit.report.render import templates
from labkit.results import overlap, percent

MOST_FINDINGS = 5
_TRADEOFF = "06_tradeoff"
_FIRST = (_TRADEOFF, "02_robustness", "03_privacy")  # whose findings come before the others'


@dataclass(frozen=True)
class _Measure:
    """One axis: how its column is called, which end is good, and where it is found if the trade-off failed.

    Where several attacks measured it, the first of ``strongest`` that did stands for them.
    """

    metric: str
    title: str
    higher_is_better: bool
    chapter: str
    strongest: tuple[str, ...] = ()


_MEASURES = (
    _Measure("accuracy", "Clean accuracy", True, "01_utility"),
    _Measure("robust_accuracy", "Robust accuracy", True, "02_robustness", ("autoattack", "pgd_strong", "pgd")),
    _Measure("mia_auc", "Leakage: AUC", False, "03_privacy", (HEADLINE,)),
    _Measure("mia_tpr", "Leakage: TPR", False, "03_privacy", (HEADLINE,)),
)


@dataclass(frozen=True)
class Column:
    """A column of the overview: a measure under one condition (attack, radius, false-positive rate)."""

    title: str
    condition: str
    better: str


@dataclass(frozen=True)
class Cell:
    value: str
    interval: str
    best: bool  # or its interval meets the best one's


@dataclass(frozen=True)
class Line:
    """A model's line in the overview; ``cells`` has None where nothing was measured."""

    model: str
    name: str
    colour: str
    guarantee: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Overview:
    columns: list[Column]
    lines: list[Line]
    source: str  # which chapter the rows come from


def overview(chapters: Sequence[Chapter], eps: float) -> Overview:
    """Models down, axes across, from the rows of the trade-off.

    If that chapter failed before it had rows, those of utility, robustness and privacy stand in.

    Args:
        eps: radius of the robustness axis; rows at other radii are left out.
    """
    by_name = {c.name: c for c in chapters}
    tradeoff = by_name.get(_TRADEOFF)
    whole = tradeoff is not None and any(r["metric"] == m.metric for r in tradeoff.rows for m in _MEASURES)
    columns: list[Column] = []
    grids: list[dict[str, Mapping[str, Any]]] = []
    for measure in _MEASURES:
        chapter = tradeoff if whole else by_name.get(measure.chapter)
        # Defences against one radius are models of their own, which the other chapters do not know.
        rows = [r for r in (chapter.rows if chapter else []) if r["metric"] == measure.metric and "train_eps" not in r]
        for condition, grid in _conditions(rows, eps, measure.strongest):
            columns.append(Column(measure.title, condition, "higher" if measure.higher_is_better else "lower"))
            grids.append(grid)
    models = list(dict.fromkeys([*NAMES, *(model for grid in grids for model in grid)]))
    lines = []
    for model in models:
        rows = [grid.get(model) for grid in grids]
        if not any(rows):
            continue
        cells = [
            _cell(row, list(grid.values()), column) if row else None
            for row, grid, column in zip(rows, grids, columns, strict=True)
        ]
        guarantees = {r["epsilon"] for r in rows if r and r.get("epsilon") is not None}
        guarantee = f"ε = {min(guarantees):.3g}" if guarantees else ""
        lines.append(Line(model, NAMES.get(model, model), COLOURS.get(model, "#777777"), guarantee, cells))
    return Overview(columns, lines, "trade-off" if whole else "single chapters")


def _conditions(
    rows: Sequence[Mapping[str, Any]], eps: float, strongest: tuple[str, ...]
) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Rows of one measure as columns: what was measured under which condition, a row a model."""
    rows = [r for r in rows if r["value"] is not None and (r.get("eps") is None or abs(r["eps"] - eps) < 1e-9)]
    attack = next((a for a in strongest if any(r.get("attack") == a for r in rows)), None)
    if attack:
        rows = [r for r in rows if r.get("attack") == attack]
    columns: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for r in rows:
        condition = tuple(r.get(name) for name in ("attack", "steps", "restarts", "eps", "fpr"))
        columns.setdefault(condition, {})[r["model"]] = r  # the last word of a chapter on a model counts
    return [(_condition(*condition, {r.get("n") for r in grid.values()}), grid) for condition, grid in columns.items()]


def _condition(
    attack: str | None,
    steps: int | None,
    restarts: int | None,
    eps: float | None,
    fpr: float | None,
    images: set[int | None],
) -> str:
    parts = []
    if attack:
        parts.append(ATTACK_NAMES.get(attack, attack) + (f"-{steps}" if steps else ""))
        if restarts and restarts > 1:
            parts[-1] += f" × {restarts}"
    if eps is not None:
        parts.append(f"radius {eps:g}")  # ε is the privacy budget on this page
    if fpr is not None:
        parts.append(f"FPR {100 * fpr:g} %")
    if images - {None}:
        parts.append(f"{' or '.join(f'{n:,}' for n in sorted(images - {None}))} images")
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _cell(row: Mapping[str, Any], column_rows: Sequence[Mapping[str, Any]], column: Column) -> Cell:
    # An AUC below one half is no better a secret than one half: both are guessing.
    values = [max(r["value"], 0.5) if r["metric"] == "mia_auc" else r["value"] for r in column_rows]
    winner = column_rows[values.index((max if column.better == "higher" else min)(values))]
    if row["metric"] == "mia_auc":
        value, scale, digits = f"{row['value']:.3f}", 1, 3
    else:
        value, scale, digits = percent({"value": row["value"]}), 100, 1
    low, high = row.get("low"), row.get("high")
    interval = f"{scale * low:.{digits}f} – {scale * high:.{digits}f}" if low is not None and high is not None else ""
    return Cell(value, interval, row is winner or overlap(row, winner))


def findings(chapters: Sequence[Chapter]) -> list[dict[str, str]]:
    """At most five sentences: the trade-off's, the first of each chapter (defences first), then what chapters add."""
    place = {name: index for index, name in enumerate(_FIRST)}
    ordered = sorted(chapters, key=lambda c: (place.get(c.name, len(_FIRST)), c.name))
    leading = [f for c in ordered for f in (c.findings if c.name == _TRADEOFF else c.findings[:1])]
    others = [f for c in ordered if c.name != _TRADEOFF for f in c.findings[1:]]
    return (leading + others)[:MOST_FINDINGS]


def title(provenance: Mapping[str, Any]) -> str:
    """The report's title; it says so when the data are not FashionMNIST."""
    question = "What does a defence cost?"
    if provenance["dataset"] == "fashion_mnist":
        return question
    return f"{question} Measured on {_short(provenance['dataset_title'])}, not on FashionMNIST"


def _short(dataset_title: str) -> str:
    """A dataset's name without the reason why it was taken, which stands in brackets."""
    return dataset_title.partition(" (")[0]


def index_page(chapters: Sequence[Chapter], provenance: Mapping[str, Any]) -> str:
    """The HTML of the first page.

    Args:
        chapters: in order.
        provenance: see :func:`labkit.report.summary.provenance`.
    """
    tradeoff = next((c for c in chapters if c.name == _TRADEOFF), None)
    return (
        templates()
        .get_template("index.html")
        .render(
            title=title(provenance),
            dataset=_short(provenance["dataset_title"]),
            provenance=provenance,
            chapters=chapters,
            when=_when(provenance["started"]),
            took=duration(sum(provenance["seconds"].values())),
            findings=findings(chapters),
            picture=tradeoff.main_figure if tradeoff else None,
            picture_page=tradeoff.page if tradeoff else "",
            overview=overview(chapters, provenance["parameters"]["tradeoff_eps"]),
            failed_notebooks=[c for c in chapters if c.outcome.failed],
            failed_checks=[(c, check) for c in chapters for check in c.failed_checks],
            checks=sum(len(c.checks) for c in chapters),
        )
    )


def _when(started: str) -> str:
    moment = datetime.fromisoformat(started)
    return f"{moment.day} {moment:%B %Y}, {moment:%H:%M} UTC"
