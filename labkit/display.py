"""How results appear in a notebook: an output that shows rows, checks or findings carries them as data."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import Any

from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from labkit.results import MIME, Check, Row, bundle

MOST_OPEN = 10  # a longer table is folded away: its figures and sentences are what is read first
_COLUMNS_FIRST = ("model", "metric", "attack", "eps", "fpr")
_FIGURES, _LAST, _SPARSE = ("value", "low", "high"), ("n", "interval"), "besides"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"
    return "" if value is None else str(value)


def _rounded(d: dict[str, Any]) -> dict[str, Any]:
    """A row whose figures have the digits that its interval bears: two of half its width."""
    value, low, high = (d.get(n) for n in _FIGURES)
    if None in (value, low, high) or not high > low:
        return d
    decimals = min(6, max(0, 1 - math.floor(math.log10((high - low) / 2))))
    return {n: f"{v:.{decimals}f}" if n in _FIGURES else v for n, v in d.items()}


def _cell(value: Any) -> str:
    return html.escape(_plain(value))


def _table(dicts: Sequence[dict[str, Any]], caption: str) -> str:
    """An HTML table of rows; columns in which every row is silent are left out, and one word of all is said once.

    What few rows say stands in one column: several that are nearly empty would push others out of sight.
    """
    dicts = _gathered(dicts)
    names = list(dict.fromkeys(name for d in dicts for name in d))
    names = [n for n in names if any(d.get(n) is not None for d in dicts)]
    facts = [n for n in names if n not in (*_FIGURES, *_LAST, _SPARSE)]
    # What only some rows have comes after the figures, which would else be pushed out of sight.
    first = [n for n in facts if n in _COLUMNS_FIRST or all(d.get(n) is not None for d in dicts)]
    rest = [n for n in facts if n not in first]
    names = [n for n in (*first, *_FIGURES, *rest, *_LAST, _SPARSE) if n in names]
    same = [n for n in names if n not in _FIGURES and all(d.get(n) == dicts[0].get(n) for d in dicts[1:])]
    same = same if len(dicts) > 1 else []
    names = [n for n in names if n not in same]
    numbers = {n for n in names if all(isinstance(d.get(n), int | float | None) for d in dicts)}
    kind = {n: ' class="num"' if n in numbers else "" for n in names}
    kind |= {n: ' style="white-space:nowrap"' for n in _LAST if n in names and n not in numbers}  # a word each
    kind |= {_SPARSE: ' class="words"'} if _SPARSE in names else {}
    head = "".join(f'<th scope="col"{kind[n]}>{html.escape(n.replace("_", " "))}</th>' for n in names)
    body = "".join(
        "<tr>" + "".join(f"<td{kind[n]}>{_cell(d.get(n))}</td>" for n in names) + "</tr>" for d in map(_rounded, dicts)
    )
    folded = len(dicts) > MOST_OPEN
    shared = ", ".join(f"{html.escape(n.replace('_', ' '))} {_cell(dicts[0][n])}" for n in same)
    said = [f'<span class="same">In every row: {shared}.</span>'] if same else []
    said = [html.escape(caption), *said] if caption and not folded else said
    title = f"<caption>{'<br>'.join(said)}</caption>" if said else ""
    table = f'<table class="rows">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    if not folded:
        return table
    return f"<details><summary>{html.escape(caption or 'rows')} ({len(dicts)} rows)</summary>{table}</details>"


def _gathered(dicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and what at most half of them say, where it is more than one thing, as words in one column."""
    names = list(dict.fromkeys(name for d in dicts for name in d))
    told = {n: sum(d.get(n) is not None for d in dicts) for n in names}
    rare = [n for n in names if 0 < 2 * told[n] <= len(dicts) and n not in (*_COLUMNS_FIRST, *_FIGURES, *_LAST)]
    if len(rare) < 2:
        return list(dicts)
    gathered = []
    for d in dicts:
        said = [f"{n.replace('_', ' ')} {_plain(d[n])}" for n in rare if d.get(n) is not None]
        gathered.append({n: v for n, v in d.items() if n not in rare} | {_SPARSE: ", ".join(said) or None})
    return gathered


def _show(bundled: dict[str, Any], **more: Any) -> None:
    """All of an output in a notebook; in a terminal, where IPython would print the raw data, its text."""
    if get_ipython() is None:
        print(bundled["text/plain"])
    else:
        display(bundled, raw=True, **more)


def show_rows(rows: Sequence[Row], caption: str = "") -> None:
    """Show rows as a table; the output carries them."""
    dicts = [r.as_dict() for r in rows]
    plain = "\n".join(", ".join(f"{k}={_plain(v)}" for k, v in d.items() if v is not None) for d in dicts)
    _show({MIME: bundle(rows=dicts), "text/html": _table(dicts, caption), "text/plain": plain})


def show_checks(checks: Sequence[Check]) -> None:
    """Show checks as a list, failed ones in red; the output carries them."""
    items, lines = [], []
    for check in checks:
        mark, word = ("✓", "passed") if check.passed else ("✗", "FAILED")
        detail = f": {check.detail}" if check.detail else ""
        style = "" if check.passed else ' style="color:#c62828;font-weight:600"'
        text = html.escape(f"{mark} {word}  {check.name}{detail}")
        items.append(f'<li class="check {"ok" if check.passed else "failed"}"{style}>{text}</li>')
        lines.append(f"{mark} {word}  {check.name}{detail}")
    page = f'<ul class="checks" style="list-style:none;padding-left:0">{"".join(items)}</ul>'
    _show({MIME: bundle(checks=list(checks)), "text/html": page, "text/plain": "\n".join(lines)})


def show_text(text: str) -> None:
    """Show a sentence (Markdown) whose numbers were computed."""
    _show({"text/markdown": text, "text/plain": text})


def show_finding(text: str) -> None:
    """Show a sentence that belongs on the report's first screen; the output carries it."""
    shown = f"**Finding.** {text}"
    _show({MIME: bundle(findings=[text]), "text/markdown": shown, "text/plain": shown})


def show_provenance(facts: dict[str, Any], title: str) -> None:
    """Show one line on what the notebook runs on, from a lab's facts and the data's title; the output carries them."""
    summary = (
        f"*{title}: {facts['train_images']:,} training and {facts['test_images']:,} test images. "
        f"labkit {facts['labkit']}, torch {facts['torch']}, {facts['device_name']}.*"
    )
    _show({MIME: bundle(provenance=facts), "text/markdown": summary, "text/plain": summary})


def show_figure(figure: Figure, name: str, alt: str, *, main: bool = False) -> None:
    """Show a figure with its alternative text, as PNG.

    JupyterLab shows the HTML (which has the alternative text); the report takes the PNG and the metadata.

    Args:
        name: file name in the report's ``figures`` folder, without ending; letters, digits, ``_`` and ``-``.
        alt: what the figure says, for somebody who cannot see it.
        main: the chapter's main figure, shown on the report's first page.
    """
    if not alt.strip():
        raise ValueError(f"figure {name!r} has no alternative text; say in a sentence what it shows")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    width = round(figure.get_figwidth() * 96)
    tag = f'<img style="max-width:100%;width:{width}px" alt="{html.escape(alt, quote=True)}" '
    _show(
        {"image/png": encoded, "text/html": f'{tag}src="data:image/png;base64,{encoded}">', "text/plain": alt},
        metadata={"labkit": {"figure": name, "alt": alt, "main": main, "width": width}},
    )
    figure.clear()
