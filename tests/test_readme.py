"""The README's table is the committed report's: no number is typed by hand."""

import json
import re
from pathlib import Path

import pytest

from labkit.membership import HEADLINE
from labkit.plots.style import ATTACK_NAMES, NAMES
from labkit.results import find, percent

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = ROOT / "reports" / "quick" / "summary.json"
COLUMNS = {"accuracy": {}, "robust_accuracy": {}, "mia_auc": {"attack": HEADLINE}}


def table(summary):
    """The README's table, made from a report's rows."""
    rows = [r for r in summary["rows"] if r["notebook"] == "06_tradeoff"]
    eps = summary["provenance"]["parameters"]["tradeoff_eps"]
    met = {m: max(r["n"] for r in find(rows, metric=m)) for m in ("accuracy", "robust_accuracy")}
    lines = [
        f"| | clean accuracy ({met['accuracy']:,} images) | under strong PGD, eps {eps:g} ({met['robust_accuracy']:,}) "
        f"| {ATTACK_NAMES[HEADLINE]}'s AUC (0.5: guessing) |",
        "|---|---|---|---|",
    ]
    for model in dict.fromkeys(r["model"] for r in rows):
        accuracy, robust, auc = (find(rows, model=model, metric=m, **w)[0] for m, w in COLUMNS.items())
        name = NAMES[model]
        if accuracy.get("epsilon"):
            name += f", ε = {accuracy['epsilon']:.1f}"
        leak = f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})"
        lines.append(f"| {name} | {percent(accuracy)} | {percent(robust)} | {leak} |")
    return "\n".join(lines)


@pytest.mark.skipif(not SUMMARY.exists(), reason="no reports/quick in this checkout")
def test_the_table_is_the_report_s():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"<!-- table: begin -->\n(.*?)\n?<!-- table: end -->", readme, re.S)
    assert written == table(json.loads(SUMMARY.read_text(encoding="utf-8")))


def test_every_file_that_the_readme_names_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)", readme) + re.findall(r"`((?:labkit|params|notebooks)/[\w./]+\.\w+)`", readme)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
