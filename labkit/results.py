"""One row a measurement; rows travel inside the executed notebook.

Whatever a notebook shows as a result it also carries, in the same output, under a MIME type of its own:
rows, checks, findings and provenance. The report reads them back from there, so that no number is typed
twice and an executed notebook is complete without the files beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MIME = "application/vnd.labkit.results+json"


@dataclass(frozen=True)
class Row:
    """One measurement: a value with its interval, and what it is a measurement of.

    Attributes:
        model: ``standard``, ``pgd``, ``dp``, ``cvae``, ``gmm``, ...
        metric: ``accuracy``, ``robust_accuracy``, ``mia_auc``, ... Accuracies are fractions in [0, 1].
        value: the point estimate.
        low, high: ends of the 95 % interval, or None where there is none to give.
        n: how many images (canaries, components) the value rests on; of several ``models``, each of them.
        interval: the kind of interval (``wilson``, ``student-t``, ``bootstrap``, ``clopper-pearson``).
        extra: what else identifies the row (``attack``, ``eps``, ``fpr``, ``epsilon``, ``delta``, ...).
    """

    model: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    interval: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Flat and JSON-ready: ``extra`` is spread out, numbers that are not finite become None."""
        flat = {"model": self.model, "metric": self.metric, **self.extra, "value": self.value}
        flat |= {"low": self.low, "high": self.high, "n": self.n, "interval": self.interval}
        return {name: _plain(value) for name, value in flat.items()}


@dataclass(frozen=True)
class Check:
    """A statement that must hold if the measurement is sound; a failed one is shown, never hidden."""

    name: str
    passed: bool
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "passed": bool(self.passed), "detail": self.detail}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def row(model: str, metric: str, value: float, bounds: tuple[float, float] | None = None, **facts: Any) -> Row:
    """A :class:`Row` with its interval as a pair; ``n`` and ``interval`` by name, all else is ``extra``."""
    low, high = bounds if bounds is not None else (None, None)
    n, interval = facts.pop("n", None), facts.pop("interval", None)
    return Row(model, metric, float(value), low, high, n, interval, facts)


def find(rows: Iterable[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    """The rows (as dicts) whose entries equal all of ``wanted``, in their order."""
    return [r for r in rows if all(r.get(name) == value for name, value in wanted.items())]


def overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the intervals of two rows meet; a row without one is its value."""
    (a_low, a_high), (b_low, b_high) = (
        (r["value"], r["value"]) if r.get("low") is None or r.get("high") is None else (r["low"], r["high"])
        for r in (a, b)
    )
    return a_low <= b_high and b_low <= a_high


def percent(r: Row | Mapping[str, Any], digits: int = 1) -> str:
    """A fraction as text, with its interval: ``84.9 % (84.1 to 85.7)``."""
    r = r.as_dict() if isinstance(r, Row) else r
    text = f"{100 * r['value']:.{digits}f} %"
    if r.get("low") is not None and r.get("high") is not None:
        text += f" ({100 * r['low']:.{digits}f} to {100 * r['high']:.{digits}f})"
    return text


def points(r: Row | Mapping[str, Any]) -> str:
    """A difference of two fractions as text, with its interval: ``5.4 points less (4.1 to 6.7)``."""
    r = r.as_dict() if isinstance(r, Row) else r
    sign = -1 if r["value"] < 0 else 1
    low, high = sorted(100 * sign * r[end] for end in ("low", "high"))
    return f"{100 * sign * r['value']:.1f} points {'less' if sign < 0 else 'more'} ({low:.1f} to {high:.1f})"


def bundle(**parts: Any) -> dict[str, Any]:
    """The payload of one output: any of ``rows``, ``checks``, ``findings`` (lists) and ``provenance``."""
    unknown = set(parts) - {"rows", "checks", "findings", "provenance"}
    if unknown:
        raise ValueError(f"an output carries rows, checks, findings or provenance, not {sorted(unknown)}")
    payload = {
        name: [item.as_dict() if hasattr(item, "as_dict") else item for item in part]
        if isinstance(part, list | tuple)
        else part
        for name, part in parts.items()
    }
    return json.loads(json.dumps(payload, allow_nan=False))


def collect(notebook: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Everything that an executed notebook carries.

    Args:
        notebook: an nbformat notebook (version 4), as a mapping.
        name: the notebook's stem, e.g. ``02_robustness``; written into each row, check and finding.

    Returns:
        ``{"rows": [...], "checks": [...], "findings": [...], "provenance": {...}}``.
    """
    found: dict[str, Any] = {"rows": [], "checks": [], "findings": [], "provenance": {}}
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            payload = output.get("data", {}).get(MIME)
            if payload is None:
                continue
            for part in ("rows", "checks"):
                found[part] += [{"notebook": name, **item} for item in payload.get(part, [])]
            found["findings"] += [{"notebook": name, "text": text} for text in payload.get("findings", [])]
            found["provenance"] |= payload.get("provenance", {})
    return found
