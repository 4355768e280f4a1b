"""Safe HTML from what notebooks hold: Markdown with formulas, HTML of outputs, code, tracebacks.

Nothing that comes out of here runs, or fetches anything: tags and attributes that are not on the lists below
are dropped, images are data URIs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import bleach
from markupsafe import Markup, escape
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from labkit.report.formulas import mathml

_TEXT = """a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2
h3 h4 h5 h6 hr i img ins kbd li mark ol p pre s samp small span strong sub summary sup table tbody td tfoot th
thead tr u ul var"""
_MATH = """math annotation menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mroot mrow ms mspace
msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover semantics"""
_MATH_ATTRIBUTES = """accent accentunder columnalign columnlines columnspacing depth display displaystyle fence
form height largeop linebreak linethickness lspace mathvariant maxsize minsize movablelimits notation rowlines
rowspacing rspace scriptlevel separator stretchy symmetric voffset width"""
_ATTRIBUTES = {
    "*": {"class", "id", "title", "lang"},
    "img": {"alt", "width", "height"},
    "td": {"colspan", "rowspan", "align"},
    "th": {"colspan", "rowspan", "scope", "align"},
    "ol": {"start"},
    **{tag: set(_MATH_ATTRIBUTES.split()) for tag in _MATH.split()},
}


def _allowed(tag: str, name: str, value: str) -> bool:
    if (tag, name) == ("img", "src"):
        return value.startswith("data:image/")
    if (tag, name) == ("a", "href"):
        return not value.lower().lstrip().startswith("data:")
    return name in _ATTRIBUTES["*"] or name in _ATTRIBUTES.get(tag, ())


_cleaner = bleach.Cleaner(
    tags={*_TEXT.split(), *_MATH.split()},
    attributes=_allowed,
    protocols={"http", "https", "mailto", "data"},
    strip=True,
)


def clean(html: str) -> Markup:
    """``html`` without whatever runs, fetches or restyles; tables scroll within themselves, every image has ``alt``."""
    html = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", "", html)
    html = re.sub(r'(<t[hd]) style="text-align:\s*(right|center)"', r'\1 align="\2"', html)  # so mistune aligns
    html = _cleaner.clean(html)
    html = re.sub(r"<img(?![^>]*\bsrc=)[^>]*>", '<span class="quiet">(an image from elsewhere, left out)</span>', html)
    html = re.sub(r"<img(?![^>]*\balt=)", '<img alt="Image without a description"', html)
    scroll = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
    html = html.replace("<table", f"{scroll}<table").replace("</table>", "</table></div>")
    return Markup(html)


@dataclass(frozen=True)
class Heading:
    """An entry of a table of contents."""

    level: int
    text: str
    anchor: str


class _Renderer(IPythonRenderer):
    """Markdown as nbconvert reads it, with formulas as MathML and headings gathered."""

    def __init__(self, headings: list[Heading]):
        super().__init__(escape=False)
        self.headings = headings

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{mathml(body, display=True)}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        plain = Markup(text).striptags()
        stem = re.sub(r"[^\w]+", "-", plain.lower()).strip("-") or "section"
        taken = {h.anchor for h in self.headings}
        anchor = next(a for a in (stem, *(f"{stem}-{i}" for i in range(2, 10_000))) if a not in taken)
        self.headings.append(Heading(level, plain, anchor))
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'


class Prose:
    """Markdown to HTML for one page: anchors are unique, ``headings`` grows in the order of the text."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []

    def __call__(self, markdown: str) -> Markup:
        kept = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", markdown)
        return clean(MarkdownWithMath(renderer=_Renderer(self.headings)).render(kept))


def sentence(markdown: str) -> Markup:
    """One sentence of Markdown, without the paragraph around it."""
    html = str(Prose()(markdown)).strip()
    match = re.fullmatch(r"(?s)<p>(.*)</p>", html)
    return Markup(match[1] if match and "<p>" not in match[1] else html)


def code(source: str) -> Markup:
    """Python, coloured by classes."""
    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def terminal(text: str) -> Markup:
    """Text of a terminal, without its colours (they are chosen for one background, a page has two)."""
    return escape(strip_ansi(text))


def printed(text: str) -> Markup:
    """What a cell printed: of a line that was overwritten its last state, of a progress bar nothing."""
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    kept = [line for line in lines if not re.search(r"\d+%\|.*\||\d+(?:\.\d+)?\s?(?:it/s|s/it)\b", line)]
    return terminal("\n".join(kept).strip("\n"))
