"""Notebooks run headless: what fails is said in the file, the page and the exit code, and nothing else suffers."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
import pytest
from reporting import DIE, Made, make, write_notebook, write_profile

from labkit import data
from labkit.params import Params
from labkit.report import summary
from labkit.report.progress import progress_on
from labkit.report.publish import Unpublished, publish, staging
from labkit.report.run import run_notebook

pytestmark = pytest.mark.slow


def test_every_notebook_runs_whatever_happens_to_the_others(troubled: Made):
    ended = {name: outcome.status for name, outcome in troubled.outcomes.items()}
    assert ended == {
        "01_utility": "done",
        "02_robustness": "done",
        "03_privacy": "failed",
        "04_cvae": "failed",
        "05_gmm": "failed",
        "06_tradeoff": "done",
    }
    assert {p.stem for p in (troubled.folder / "notebooks").iterdir()} == set(ended)
    for name in ended:
        nbformat.validate(troubled.notebook(name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("03_privacy", "ZeroDivisionError: division by zero"),
        ("04_cvae", "the kernel died"),
        ("05_gmm", "longer than cell_timeout = 15 seconds"),
    ],
)
def test_a_failure_is_in_the_file_the_page_and_the_log(troubled: Made, name: str, reason: str):
    notebook = troubled.notebook(name)
    said = notebook.metadata.labkit
    assert said.status == "failed"
    assert reason in said.reason
    assert said.seconds > 0
    cell = notebook.cells[said.cell - 1]
    assert cell.metadata.papermill.status == "failed"
    assert any(output.output_type == "error" for output in cell.outputs)
    later = notebook.cells[said.cell :]
    assert later
    assert all(c.metadata.papermill.status == "pending" and not c.outputs for c in later)
    assert notebook.metadata.papermill.exception is True
    for page in (troubled.page(name), troubled.page("index")):
        assert reason in page
        assert f"#cell-{said.cell}" in page
    assert f"{name}: FAILED in cell {said.cell}" in troubled.log
    assert troubled.summary["provenance"]["notebooks"][name]["status"] == "failed"


def test_the_failed_cell_is_the_one_that_failed(troubled: Made):
    source = {
        name: troubled.notebook(name).cells[outcome.cell - 1].source
        for name, outcome in troubled.outcomes.items()
        if outcome.failed
    }
    assert source["03_privacy"].endswith("f(0)")
    assert source["04_cvae"] == DIE
    assert "sleep" in source["05_gmm"]


def test_the_kernel_is_this_python_gets_all_parameters_and_knows_where_the_command_started(troubled: Made):
    notebook = troubled.notebook("01_utility")  # its kernelspec names a kernel that does not exist
    printed = next(c.outputs[0].text for c in notebook.cells if c.source.startswith("import os, sys"))
    assert printed.split() == ["0", sys.executable, os.getcwd()]  # the profile's seed, over the cell's 3
    assert notebook.metadata.papermill.parameters == troubled.summary["provenance"]["parameters"]


def test_a_quiet_log_has_two_lines_a_notebook(troubled: Made):
    assert len(troubled.log.splitlines()) == 12
    assert "\r" not in troubled.log


def test_no_path_of_the_machine_in_the_executed_notebooks_metadata(troubled: Made):
    for name in troubled.outcomes:
        assert str(troubled.folder.parent) not in json.dumps(troubled.notebook(name).metadata)


def test_summary_holds_the_contract(troubled: Made):
    summary = troubled.summary
    assert list(summary) == ["schema", "provenance", "rows", "checks"]
    assert summary["schema"] == 1
    wanted = "dataset dataset_sha256 parameters labkit git_commit torch device device_name started seconds"
    assert set(wanted.split()) <= set(summary["provenance"])
    assert summary["provenance"]["dataset"] == "digits"
    assert set(summary["provenance"]["seconds"]) == set(troubled.outcomes)
    assert {"notebook", "model", "metric", "value", "low", "high", "n"} <= set(summary["rows"][0])
    assert {"notebook": "02_robustness", "name": "attacks agree <here>", "passed": False, "detail": "off by 0.2"} in (
        summary["checks"]
    )
    with (troubled.folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(summary["rows"]) == 42
    assert [float(line["value"]) for line in table] == [row["value"] for row in summary["rows"]]
    assert (troubled.folder / "figures" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_a_changed_package_is_told_and_a_changed_report_is_not(tmp_path: Path, monkeypatch):
    def git(*arguments: str) -> None:
        mine = ("-c", "user.name=n", "-c", "user.email=e@e")
        subprocess.run(["git", "-C", tmp_path, *mine, *arguments], check=True, capture_output=True)

    for name in ("labkit/module.py", "notebooks/01_a.ipynb", "reports/quick/index.html", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.setattr(summary, "_ROOT", tmp_path)
    monkeypatch.setattr(summary, "_SOURCES", tuple(s for s in summary._SOURCES if (tmp_path / s).exists()))
    digits = data.load("digits")
    (tmp_path / "reports/quick/index.html").write_text("rendered again")
    assert not summary.surroundings(Params(dataset="digits"), "quick", digits)["git_changed"]
    (tmp_path / "labkit/module.py").write_text("edited")
    assert summary.surroundings(Params(dataset="digits"), "quick", digits)["git_changed"]


def test_a_second_report_replaces_the_first_and_nothing_else(tmp_path: Path):
    source, folder = tmp_path / "notebooks", tmp_path / "a {report} $HOME"
    show = "from labkit import display\nfrom labkit.plots.style import new_figure\n"
    write_notebook(source, "01_old", "md:# Old", show + "display.show_figure(new_figure()[0], 'gone', 'An old figure')")
    first = make(source, folder)
    assert not first.outcomes["01_old"].failed
    mine = [
        folder / "notes.txt",
        folder / "figures" / "mine.png",
        folder / "notebooks" / "mine.ipynb",
        folder / "x.html",
    ]
    for path in mine:
        path.write_text("mine")
    (source / "01_old.ipynb").unlink()
    write_notebook(source, "02_new", "md:# New", "import sys\nsys.exit()", "print('never')")
    second = make(source, folder)
    assert second.outcomes["02_new"].failed  # plain papermill calls it complete
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    new = {"index.html", "summary.json", "results.csv", "02_new.html", "notebooks/02_new.ipynb"}
    assert there == new | {str(p.relative_to(folder)) for p in mine}
    assert all(path.read_text() == "mine" for path in mine)


def test_a_tampered_summary_removes_nothing_but_report_files(tmp_path: Path):
    folder, staged = tmp_path / "report", tmp_path / "staged"
    folder.mkdir()
    staged.mkdir()
    (staged / "index.html").write_text("new")
    outside = tmp_path / "precious.png"
    inside = folder / "thesis.tex"
    outside.write_text("precious")
    inside.write_text("precious")
    files = ["../precious.png", "figures/../../precious.png", "thesis.tex", str(outside), "figures/old.png"]
    old = folder / "figures" / "old.png"
    old.parent.mkdir()
    old.write_text("old")
    (folder / "summary.json").write_text(json.dumps({"provenance": {"files": files}}))
    publish(staged, folder)
    assert not old.exists()
    assert outside.exists()
    assert inside.exists()
    assert (folder / "index.html").read_text() == "new"


def test_a_report_that_is_killed_while_it_replaces_another_leaves_nothing_for_good(tmp_path: Path, monkeypatch):
    folder = tmp_path / "report"
    for name in ("index.html", "07_x.html", "figures/old.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    (folder / "summary.json").write_text(json.dumps({"provenance": {"files": ["07_x.html", "figures/old.png"]}}))

    def stage(where: Path, figure: str) -> Path:
        for name in ("index.html", "01_utility.html", figure, "summary.json"):
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(json.dumps({"provenance": {"files": ["01_utility.html", figure]}}))
        return where

    moves, replace = [], os.replace
    for least in range(6):

        def killed(source: Path, target: Path, least: int = least) -> None:
            moves.append(target.name)
            if len(moves) > least:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with suppress(KeyboardInterrupt):
            publish(stage(tmp_path / f"staged {least}", f"figures/{least}.png"), folder)
        moves.clear()
    monkeypatch.setattr(os, "replace", replace)
    publish(stage(tmp_path / "last", "figures/new.png"), folder)
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert left == {"index.html", "01_utility.html", "figures/new.png", "summary.json"}


def test_what_cannot_be_put_in_place_is_kept(tmp_path: Path):
    folder = tmp_path / "report"
    (folder / "03_privacy.html").mkdir(parents=True)
    with staging(folder) as place:
        staged = place / "report"
        staged.mkdir()
        for name in ("01_utility.html", "03_privacy.html", "index.html"):
            (staged / name).write_text(name)
        with pytest.raises(Unpublished, match=r"03_privacy\.html cannot be put in place") as told:
            publish(staged, folder)
    (kept,) = folder.glob("unpublished-*")
    assert str(kept) in str(told.value)
    assert {p.name for p in kept.iterdir()} == {"03_privacy.html", "index.html"}
    assert {p.name for p in folder.iterdir()} == {"01_utility.html", "03_privacy.html", ".publishing.json", kept.name}
    with staging(folder):  # as the next run does
        assert kept.exists()


def test_what_cannot_even_be_moved_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder that has become unwritable: neither the report nor a folder for it can be put there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "report"
    with staging(folder) as place:
        staged = place / "report"
        staged.mkdir()
        (staged / "index.html").write_text("new")
        with monkeypatch.context() as broken:
            for name in ("rename", "replace"):
                broken.setattr(os, name, refuse)
            with pytest.raises(Unpublished, match="cannot be put in place"):
                publish(staged, folder)
    (kept,) = tmp_path.glob("unpublished-*")
    assert (kept / "index.html").read_text() == "new"


def test_what_cannot_be_kept_anywhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with staging(tmp_path / "report") as place:
        staged = place / "report"
        staged.mkdir()
        (staged / "index.html").write_text("new")
        for owner, name in ((os, "rename"), (os, "replace"), (shutil, "copytree")):
            monkeypatch.setattr(owner, name, refuse)
        with pytest.raises(Unpublished, match=r"cannot be kept elsewhere either .*make room"):
            publish(staged, tmp_path / "report")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_does_not_leave_half_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
):
    heard, replace = signal.signal(how, signal.default_int_handler), os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(how)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    try:
        with staging(tmp_path / "report") as place:
            staged = place / "report"
            staged.mkdir()
            for name in ("01_utility.html", "index.html"):
                (staged / name).write_text("new")
            publish(staged, tmp_path / "report")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(how)
    finally:
        signal.signal(how, heard)
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"01_utility.html", "index.html"}


def test_a_notebook_that_papermill_could_not_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk: the file is cut short."""
    source = write_notebook(tmp_path / "notebooks", "01_short", "md:# Short", "1 + 1")

    def cut(source: str, target: str, *_: object, **__: object) -> None:
        Path(target).write_text('{"cells": [')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", cut)
    (tmp_path / "out" / "notebooks").mkdir(parents=True)
    target = tmp_path / "out" / "notebooks" / "01_short.ipynb"
    outcome = run_notebook(source, target, {}, progress_on(io.StringIO(), tmp_path / "progress"))
    assert outcome.failed
    assert "No space left on device" in outcome.reason
    assert target.exists()


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_staging_place_that_a_killed_run_left_goes_and_a_live_one_stays(tmp_path: Path):
    dead = tmp_path / ".staging-dead"
    dead.mkdir()
    (dead / "half.html").write_text("<p>hal")
    with staging(tmp_path) as live, staging(tmp_path) as other:
        assert not dead.exists()
        assert live.exists()
        assert other.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the kernel in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_cleanly(tmp_path: Path, how: signal.Signals):
    marker = tmp_path / "pid"
    source = f"import os, pathlib, time\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\ntime.sleep(120)"
    write_notebook(tmp_path / "notebooks", "01_long", "md:# Long", source)
    profile = write_profile(tmp_path / "params")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("old")
    start = (
        # A job in a shell's background inherits an ignored SIGINT; here it must be heard.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pathlib, labkit.report.plan as p\n"
        f"p.CHECKOUT = pathlib.Path({str(tmp_path)!r})\n"
        "from labkit.cli import main\nmain()"
    )
    command = [sys.executable, "-c", start, "report", str(profile), "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(how)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert [p.name for p in folder.iterdir()] == ["index.html"]
    assert (folder / "index.html").read_text() == "old"
    kernel = Path("/proc", marker.read_text())
    deadline = time.monotonic() + 10
    while kernel.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not kernel.exists()  # it went too
