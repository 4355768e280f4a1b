"""The report for machines: ``summary.json`` and ``results.csv``, and the provenance that every page shows."""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

import labkit
from labkit import device
from labkit.params import Params
from labkit.report import SCHEMA
from labkit.report.chapter import Chapter

_FIRST = ("notebook", "model", "metric", "attack", "eps", "fpr")
_LAST = ("value", "low", "high", "n", "interval")
_ROOT = Path(labkit.__file__).resolve().parent.parent
# What numbers come from: a report rendered earlier, or a test, that differs from the commit moves none.
_SOURCES = ("labkit", "notebooks", "constraints.txt", "pyproject.toml")


def surroundings(params: Params, profile: str, dataset: Any) -> dict[str, Any]:
    """What is known before the first notebook runs: data, parameters, versions, hardware.

    Args:
        dataset: what ``labkit.data.load`` gave for these parameters.
    """
    where = device.resolve(params.device)
    return {
        "profile": profile,
        "dataset": dataset.name,
        "dataset_title": dataset.title,
        "dataset_sha256": dataset.sha256,
        "train_images": len(dataset.train.labels),
        "test_images": len(dataset.test.labels),
        "parameters": params.model_dump(),
        "labkit": labkit.__version__,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": where.type,
        "device_name": device.hardware_name(where),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that labkit is imported from; None where that is no checkout."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance(facts: Mapping[str, Any], chapters: Sequence[Chapter], started: str, files: Sequence[str]) -> dict:
    """The report's provenance.

    Args:
        facts: of :func:`surroundings`.
        chapters: as executed.
        started: when, ISO 8601 in UTC.
        files: what the report consists of, relative to its folder; a later report takes these away.
    """
    return {
        **facts,
        "started": started,
        "seconds": {c.name: c.outcome.seconds for c in chapters},
        "notebooks": {
            c.name: {"status": c.outcome.status, "reason": c.outcome.reason, "cell": c.outcome.cell} for c in chapters
        },
        "files": sorted(files),
    }


def summary(chapters: Sequence[Chapter], facts: Mapping[str, Any]) -> str:
    """``summary.json``: schema, provenance, and the rows and checks of all chapters."""
    names = _names(chapters)
    content = {
        "schema": SCHEMA,
        "provenance": dict(facts),
        "rows": [{name: row[name] for name in names if name in row} for c in chapters for row in c.rows],
        "checks": [check for c in chapters for check in c.checks],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def table(chapters: Sequence[Chapter]) -> str:
    """``results.csv``: one line a row, one column for every name that any row has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _names(chapters), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for c in chapters for row in c.rows)
    return text.getvalue()


def _names(chapters: Sequence[Chapter]) -> list[str]:
    """Every name that a row has: what was measured, under which conditions, and the result (nbformat sorts keys)."""
    conditions = {name for c in chapters for row in c.rows for name in row} - {*_FIRST, *_LAST}
    return [*_FIRST, *sorted(conditions), *_LAST]
