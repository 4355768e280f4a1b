"""Two reports beside each other: which numbers moved, and whether their intervals still overlap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.report import SCHEMA
from labkit.results import overlap

# What a row tells of its measurement; all else says what was measured.
_MEASURED = frozenset({"value", "low", "high", "n", "interval"})
_FOUND_BESIDE = frozenset({"nowhere", "no_gradient", "temperature", "guesses", "right", "reach", "guessing"})


class CompareError(ValueError):
    """A report that cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Pair:
    """The same measurement in two reports.

    Attributes:
        identity: what was measured: notebook, model, metric, attack, ...
        a, b: the two values; None where a report has a row without a finite value.
        overlap: whether the two 95 % intervals overlap; None where one of them has none.
    """

    identity: dict[str, Any]
    a: float | None
    b: float | None
    overlap: bool | None

    @property
    def difference(self) -> float | None:
        """``b - a``."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """Matched rows, rows that only one report has (identities), and parameters that differ as ``(name, a, b)``."""

    pairs: list[Pair]
    only_a: list[dict[str, Any]]
    only_b: list[dict[str, Any]]
    parameters: list[tuple[str, Any, Any]]


def read_summary(report: Path) -> dict[str, Any]:
    """A report's ``summary.json``.

    Args:
        report: its folder, or the file.

    Raises:
        CompareError: it cannot be read, is no summary, or is of another schema.
    """
    path = report / "summary.json" if report.is_dir() else report
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompareError(f"{path}: cannot be read ({error.strerror}); give a report's folder") from None
    except (ValueError, RecursionError) as error:
        raise CompareError(f"{path}: is not JSON ({error}); make the report again") from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise CompareError(f"{path}: is no report's summary, it has no list of rows; give a report's folder")
    facts = content.get("provenance", {})
    if not (isinstance(facts, dict) and isinstance(facts.get("parameters", {}), dict)) or not all(
        _is_row(row) for row in content["rows"]
    ):
        raise CompareError(f"{path}: its rows or its provenance are not a report's; make the report again")
    if content.get("schema") != SCHEMA:
        raise CompareError(f"{path}: has schema {content.get('schema')!r}, this labkit reads schema {SCHEMA}")
    return content


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and "value" in row
        and all(isinstance(row.get(name), str) for name in ("model", "metric"))
        and all(isinstance(row.get(name), int | float | None) for name in ("value", "low", "high"))
    )


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Match the rows of two summaries on everything but what was measured (value, interval, n).

    Where one identity stands several times in a report its rows are matched in their order.
    """
    rows_a, rows_b = _by_identity(a["rows"]), _by_identity(b["rows"])
    pairs = [
        Pair(json.loads(key[0]), r["value"], rows_b[key]["value"], _overlap(r, rows_b[key]))
        for key, r in rows_a.items()
        if key in rows_b
    ]
    given_a, given_b = (s.get("provenance", {}).get("parameters", {}) for s in (a, b))
    return Comparison(
        pairs,
        only_a=[json.loads(key[0]) for key in rows_a if key not in rows_b],
        only_b=[json.loads(key[0]) for key in rows_b if key not in rows_a],
        parameters=[
            (name, given_a.get(name), given_b.get(name))
            for name in dict.fromkeys([*given_a, *given_b])
            if given_a.get(name) != given_b.get(name)
        ],
    )


def _by_identity(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        # What a report is silent on and what it says is null are the same.
        facts = {k: v for k, v in row.items() if k not in _MEASURED | _FOUND_BESIDE and v is not None}
        # As proved it lies below the one asked for; by how much, all settings decide.
        if isinstance(facts.get("epsilon"), float):
            facts["epsilon"] = round(facts["epsilon"], 1)
        key = json.dumps(facts, sort_keys=True)
        repeat = 0
        while (key, repeat) in found:
            repeat += 1
        found[key, repeat] = row
    return found


def _overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool | None:
    """As :func:`labkit.results.overlap` says, if both have intervals: two bare values differ without lying apart."""
    return None if any(row.get(end) is None for row in (a, b) for end in ("low", "high")) else overlap(a, b)


def as_text(comparison: Comparison) -> str:
    """A table for a terminal; rows whose intervals lie apart are marked, parameters that differ come first."""
    lines = [f"parameter {name}: {a!r} -> {b!r}" for name, a, b in comparison.parameters]
    table = [("", "A", "B", "B - A", "intervals")]
    for pair in comparison.pairs:
        verdict = {True: "overlap", False: "APART", None: ""}[pair.overlap]
        table.append((_name(pair.identity), *map(_number, (pair.a, pair.b)), _number(pair.difference, "+"), verdict))
    widths = [max(len(line[i]) for line in table) for i in range(5)]
    for name, *rest in table:
        cells = [name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest[:3], widths[1:4], strict=True)), rest[3]]
        lines.append("  ".join(cells).rstrip())
    lines += [f"only in A: {_name(identity)}" for identity in comparison.only_a]
    lines += [f"only in B: {_name(identity)}" for identity in comparison.only_b]
    apart = sum(pair.overlap is False for pair in comparison.pairs)
    lines.append(f"{len(comparison.pairs)} rows compared, {apart} with intervals apart")
    return "\n".join(lines)


def _name(identity: Mapping[str, Any]) -> str:
    facts = {k: v for k, v in identity.items() if k not in ("notebook", "model", "metric")}
    extra = " ".join(f"{k}={v}" for k, v in facts.items())
    return " ".join(str(p) for p in (identity.get("notebook"), identity["model"], identity["metric"], extra) if p)


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"
