"""The notebooks: their form, and their execution in the smoke profile, through labkit and by plain papermill."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit.params import Params
from labkit.results import collect

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NAMES = ["01_utility", "02_robustness", "03_privacy", "04_cvae", "05_gmm", "06_tradeoff"]


def run(*command, cwd=ROOT, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


# Form


def test_all_six_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_without_outputs(path):
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_cell_declares_the_schema_s_defaults_with_a_comment_each(path):
    (cell,) = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    mark, *lines = cell.source.splitlines()
    assert mark == "# Parameters"
    defaults = Params().model_dump()
    for line in lines:
        code, comment = line.split("  # ")
        name, value = code.split(" = ")
        assert ast.literal_eval(value) == defaults[name], line
        assert comment.strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_parameters_that_a_notebook_uses_are_declared(path):
    cells = code_cells(path)
    (cell,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    declared = {line.split(" = ")[0] for line in cell.source.splitlines()[1:]}
    used = {name for c in cells for name in Params.model_fields if f"params.{name}" in c.source}
    assert used <= declared


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_read_after_their_check_only(path):
    """`1e-1` reaches a notebook as text: the checked value is in lab.params, the raw one is not to be used."""
    for cell in code_cells(path):
        if "parameters" in cell.metadata.get("tags", []):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name):
                assert node.id not in Params.model_fields, f"{path.name}: {node.id}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_define_no_long_function(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 10, f"{path.name}: {node.name}"


# Execution


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The whole smoke report, from an empty store."""
    folder = tmp_path_factory.mktemp("smoke")
    store = {"LABKIT_CACHE": str(folder / "store")}
    done = run(sys.executable, "-m", "labkit", "report", "smoke", "--out", folder / "report", **store)
    return done, folder / "report", store


@pytest.mark.slow
def test_smoke_report_passes(smoke):
    done, report, _ = smoke
    assert done.returncode == 0, done.stderr
    summary = json.loads((report / "summary.json").read_text())
    assert {row["notebook"] for row in summary["rows"]} == set(NAMES)
    assert {check["notebook"] for check in summary["checks"]} == set(NAMES)
    assert [check for check in summary["checks"] if not check["passed"]] == []
    assert all(row["low"] <= row["value"] <= row["high"] for row in summary["rows"] if row["low"] is not None)
    assert all(
        "epsilon" in row and "delta" in row
        for row in summary["rows"]
        if row["model"] == "dp" and row["metric"] != "epsilon"
    )
    measured = {(row["model"], row["metric"]) for row in summary["rows"] if row["notebook"] == "06_tradeoff"}
    assert {
        (m, a) for m in ("standard", "pgd", "dp", "gmm") for a in ("accuracy", "robust_accuracy", "mia_auc")
    } <= measured


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_cell_prints_a_bare_value_or_an_error(smoke, name):
    """Readers see tables, figures and sentences; what a cell's last call happened to return is none of these."""
    _, report, _ = smoke
    for cell in code_cells(report / "notebooks" / f"{name}.ipynb"):
        printed = [o for o in cell.outputs if o.output_type in ("execute_result", "error")]
        assert printed == [], cell.source


@pytest.mark.slow
def test_a_second_report_trains_nothing_and_says_the_same(smoke, tmp_path):
    _, report, store = smoke
    made = {p: p.stat().st_mtime_ns for p in Path(store["LABKIT_CACHE"]).rglob("*.safetensors")}
    assert made
    done = run(sys.executable, "-m", "labkit", "report", "smoke", "--out", tmp_path / "again", **store)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in Path(store["LABKIT_CACHE"]).rglob("*.safetensors")} == made
    rows = [json.loads((r / "summary.json").read_text())["rows"] for r in (report, tmp_path / "again")]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[::-1], ids=lambda p: p.stem)
def test_plain_papermill(path, smoke, tmp_path):
    _, report, store = smoke
    out = tmp_path / path.name
    done = run(sys.executable, "-m", "papermill", path, out, "-f", ROOT / "params/smoke.yaml", cwd=tmp_path, **store)
    assert done.returncode == 0, done.stderr
    mine = collect(nbformat.read(out, as_version=4), path.stem)["rows"]
    reported = json.loads((report / "summary.json").read_text())["rows"]
    assert mine == [
        {k: r.get(k) for k in m} for m, r in zip(mine, [r for r in reported if r["notebook"] == path.stem], strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("-p", "epohcs", "3"), "did you mean epochs"), (("-p", "epochs", "0"), "epochs"), (("-p", "seed", "x"), "seed")],
)
def test_plain_papermill_with_bad_parameters_fails_in_the_first_cell(arguments, message, tmp_path):
    out = tmp_path / "out.ipynb"
    done = run(sys.executable, "-m", "papermill", NOTEBOOKS[0], out, "-p", "dataset", "digits", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    executed = [c for c in nbformat.read(out, as_version=4).cells if c.cell_type == "code" and c.execution_count]
    assert len(executed) <= 4  # papermill's own mark, the parameters, those injected, and the check
