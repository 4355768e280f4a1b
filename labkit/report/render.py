"""A chapter's page: an executed notebook as self-contained HTML, code folded, every image described."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labkit.params import Params
from labkit.progress import duration
from labkit.report.chapter import Chapter, Figure
from labkit.report.markup import Prose, clean, code, printed, sentence, terminal

_TEMPLATES = Path(__file__).parent / "template"
_WIDE = 720  # CSS pixels; a wider figure scrolls within itself on a phone instead of shrinking to nothing
_WIDGET = "application/vnd.jupyter.widget-view+json"


@cache
def templates() -> Environment:
    """The report's templates; whatever is not marked as safe is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    environment.globals |= {"css": Markup(css), "duration": duration, "linked_figure": _linked_figure, "wide": _WIDE}
    environment.filters |= {"sentence": sentence, "plainly": plainly}
    return environment


def plainly(value: Any) -> str:
    """A parameter's value as a YAML file would say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(plainly, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Parameter:
    name: str
    value: Any
    meaning: str


@dataclass(frozen=True)
class Block:
    """A cell as the page shows it.

    Attributes:
        number: the cell's, from 1.
        kind: ``prose``, ``code``, ``parameters`` or ``injected-parameters``.
        html: the prose, or the coloured code.
        outputs: what the code showed.
        seconds: how long it ran; None where nothing was measured.
        fate: ``ran``, ``failed`` (the notebook stopped here) or ``not run`` (it had stopped before).
    """

    number: int
    kind: str
    html: Markup
    outputs: list[Markup] = field(default_factory=list)
    seconds: float | None = None
    fate: str = "ran"


def chapter_page(chapter: Chapter, chapters: Sequence[Chapter], provenance: dict[str, Any]) -> str:
    """The HTML of one chapter.

    Args:
        chapter: the one to show.
        chapters: all of them, in order, for the links between them.
        provenance: the report's, see :func:`labkit.report.summary.provenance`.
    """
    place = chapters.index(chapter)
    prose = Prose()
    blocks = _blocks(chapter, prose)
    return (
        templates()
        .get_template("chapter.html")
        .render(
            chapter=chapter,
            blocks=blocks,
            contents=[h for h in prose.headings if h.level in (2, 3)],
            title_shown=any(h.level == 1 for h in prose.headings),
            parameters=declared_parameters(chapter, provenance["parameters"]),
            previous=chapters[place - 1] if place else None,
            following=chapters[place + 1] if place + 1 < len(chapters) else None,
            provenance=provenance,
        )
    )


def declared_parameters(chapter: Chapter, values: dict[str, Any]) -> list[Parameter]:
    """The parameters that a notebook declares in its cell tagged ``parameters``, with the run's values."""
    names: list[str] = []
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            names += [
                target.id
                for statement in _statements(cell.source)
                if isinstance(statement, ast.Assign)
                for target in statement.targets
                if isinstance(target, ast.Name)
            ]
    fields = Params.model_fields
    return [Parameter(n, values.get(n), fields[n].description or "") for n in dict.fromkeys(names) if n in fields]


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # the notebook failed there; its page says so
        return []


def _blocks(chapter: Chapter, prose: Prose) -> list[Block]:
    blocks = []
    for i, cell in enumerate(chapter.notebook.cells):
        if not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            blocks.append(Block(i + 1, "prose", prose(cell.source)))
        elif cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            blocks.append(
                Block(
                    i + 1,
                    next((tag for tag in ("parameters", "injected-parameters") if tag in tags), "code"),
                    code(cell.source),
                    _outputs(chapter, i, prose),
                    cell.metadata.get("papermill", {}).get("duration"),
                    _fate(i + 1, chapter.outcome.cell),
                )
            )
    return blocks


def _fate(cell: int, stopped: int | None) -> str:
    if stopped is None or cell < stopped:
        return "ran"
    return "failed" if cell == stopped else "not run"


def _outputs(chapter: Chapter, cell: int, prose: Prose) -> list[Markup]:
    shown = [
        _output(chapter, (cell, j), output, prose) for j, output in enumerate(chapter.notebook.cells[cell].outputs)
    ]
    return [html for html in shown if html]


def _output(chapter: Chapter, place: tuple[int, int], output: dict[str, Any], prose: Prose) -> Markup:
    """One output, in the richest form that a page without scripts can show."""
    kind = output["output_type"]
    if kind == "stream":
        text = printed(output["text"])
        if not text:
            return Markup()
        if output["name"] == "stderr":
            return Markup('<details class="messages"><summary>messages</summary><pre>{}</pre></details>').format(text)
        return Markup('<pre class="printed">{}</pre>').format(text)
    if kind == "error":
        text = terminal("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}")
        return Markup('<pre class="traceback" tabindex="0">{}</pre>').format(text)
    data = output.get("data", {})
    if place in chapter.figures:
        return _figure(chapter.figures[place])
    if _WIDGET in data:
        return Markup()
    if "text/html" in data:
        return clean(data["text/html"])
    for form in ("text/markdown", "text/latex"):
        if form in data:
            return prose(data[form])
    return (
        Markup('<pre class="printed">{}</pre>').format(terminal(data["text/plain"]))
        if "text/plain" in data
        else Markup()
    )


def _figure(figure: Figure) -> Markup:
    """An image with its description, to be heard and read; a wide one scrolls within itself on a narrow screen."""
    scrolls = Markup(' class="wide" tabindex="0"') if _wide(figure) else Markup()
    return Markup('<figure{}>{}</figure><p class="caption" aria-hidden="true">{}</p>').format(
        scrolls, _image(figure), figure.alt
    )


def _linked_figure(figure: Figure, css_class: str = "") -> Markup:
    """An image in a link, which is where the keyboard stops; what it shows is read where the link leads."""
    classes = " ".join(filter(None, [css_class, "wide" if _wide(figure) else ""]))
    return Markup('<figure class="{}">{}</figure>').format(classes, _image(figure))


def _wide(figure: Figure) -> bool:
    return (figure.width or 0) > _WIDE


def _image(figure: Figure) -> Markup:
    width = Markup(' width="{}"').format(figure.width) if figure.width else Markup()
    return Markup('<img src="{}" alt="{}"{}>').format(figure.source, figure.alt, width)
