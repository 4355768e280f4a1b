"""LaTeX to MathML, so that formulas need neither a script nor a font from elsewhere."""

from __future__ import annotations

import logging
import re
from html import escape
from xml.etree import ElementTree

from latex2mathml.converter import convert

log = logging.getLogger(__name__)

_NAMESPACE = re.compile(r' xmlns(:\w+)?="[^"]*"')
# Operators that carry their limits below, not beside, in a displayed formula (latex2mathml puts them beside).
_LIMITS_BELOW = {"max", "min", "sup", "inf", "lim", "argmax", "argmin"}


def mathml(latex: str, *, display: bool = False) -> str:
    """``latex`` as a ``<math>`` element.

    Args:
        latex: the formula, without dollar signs.
        display: on a line of its own, limits below and above the operators.

    Returns:
        HTML. What cannot be set is shown as its source, and a warning is logged.
    """
    source = latex.strip()
    # Two forms that latex2mathml does not know, said in those that it does.
    known = re.sub(r"\{(align|gather)ed\}", r"{\1*}", source)
    known = re.sub(r"\\arg\s*\\(max|min)(?![a-zA-Z])", r"\\arg\1 ", known)
    try:
        root = ElementTree.fromstring(convert(known, display="block" if display else "inline"))
    except Exception as error:
        return _as_source(source, f"{type(error).__name__} {error}".strip())
    unknown = [e.text for e in root.iter() if (e.text or "").startswith("\\") and len(e.text) > 1]
    if unknown:
        return _as_source(source, f"unknown: {', '.join(unknown)}")
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if display and element.tag == "msub" and _operator(element[0]) in _LIMITS_BELOW:
            element.tag = "munder"
        if element.tag == "mtd" and element.get("columnalign"):
            # Browsers do not read columnalign; the style sheet stands in.
            element.set("class", f"align-{element.get('columnalign')}")
    return _NAMESPACE.sub("", ElementTree.tostring(root, encoding="unicode"))


def _operator(element: ElementTree.Element) -> str:
    return re.sub(r"\s", "", "".join(element.itertext()))


def _as_source(latex: str, why: str) -> str:
    log.warning("the formula %r cannot be set as MathML (%s)", latex, why)
    return f'<code class="unset-formula">{escape(latex)}</code>'
