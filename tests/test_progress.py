"""How far long work is: seen in a terminal, handed from a kernel to the report's own line, told in a log."""

import io
import re
import threading
import time
from types import SimpleNamespace

import pytest

from labkit import progress as module
from labkit.progress import NOTE, duration, progress, state
from labkit.report.progress import Live, Log, Outcome, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _nobody_looks_on(monkeypatch):
    monkeypatch.delenv(NOTE, raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


def test_who_looks_on_sees_a_bar_with_speed_and_time_left(monkeypatch):
    monkeypatch.setattr(module, "SHOWN_SECONDS", 0.2)
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with progress(1000, "pgd classifiers") as tick:
        for _ in range(5):
            tick(100)
            time.sleep(0.15)
    shown = stream.getvalue()
    assert re.search(r"pgd classifiers:\s+\d+%.*img/s", shown)
    assert re.search(r"\[00:0\d<00:0\d", shown)  # elapsed, left


def test_jupyterlab_has_one_output_a_cell_for_all_work_that_goes_on(monkeypatch):
    sent = []
    shell = SimpleNamespace(execution_count=7)

    def display(page, display_id):
        sent.append((f"new in {shell.execution_count}", page.data))
        return SimpleNamespace(update=lambda page: sent.append(("update", page.data)))

    monkeypatch.setenv("JPY_SESSION_NAME", "02_robustness.ipynb")
    monkeypatch.setattr(module, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(module, "get_ipython", lambda: shell)
    monkeypatch.setattr(module, "display", display)
    with progress(200, "<pgd>") as one, progress(10, "dp") as other:
        one(50)
        other(5)
        other(5)
    with progress(10, "short"):
        pass
    shell.execution_count = 8
    with progress(10, "next") as tick:
        tick(10)
    where, pages = zip(*sent, strict=True)
    assert where == ("new in 7", "update", "update", "update", "update", "new in 8", "update")
    assert '<progress max="200" value="50"></progress> &lt;pgd&gt;: 25 %, ' in pages[0]
    assert [page.count("<progress") for page in pages] == [1, 2, 2, 1, 0, 1, 0]


def test_short_work_shows_no_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with progress(1000, "pgd at 0.1") as tick:
        tick(1000)
    assert not stream.getvalue().strip()


def test_a_log_gets_single_lines(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)
    with progress(1000, "shadows") as tick:
        for _ in range(3):
            time.sleep(0.06)
            tick(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("shadows: 10 %, ")
    assert re.fullmatch(r"shadows: 300 images in \S+ s, [\d,]+ images/s", lines[-1])


def test_short_work_says_nothing_in_a_log(capsys):
    with progress(1000, "shadows") as tick:
        tick(1000)
    assert capsys.readouterr().err == ""


def test_a_kernel_s_work_reaches_the_report_s_log(monkeypatch, tmp_path):
    note, stream = tmp_path / "progress", io.StringIO()
    monkeypatch.setattr(Log, "every", 0.05)
    monkeypatch.setattr(module, "NOTE_SECONDS", 0.0)
    log = progress_on(stream, note)
    assert type(log) is Log
    log.start("01_utility", 1, 6, 12)
    monkeypatch.setenv(NOTE, str(note))  # as the kernel has it
    with progress(1000, "dp classifiers") as tick:
        tick(250)
        time.sleep(0.2)
    assert not note.exists()
    log.finish(Outcome("01_utility", "done", seconds=2.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/6] 01_utility: 12 cells"
    assert lines[1].startswith("[1/6] 01_utility: dp classifiers: 25 %, ")
    assert lines[-1] == "[1/6] 01_utility: done in 2.0 s"


def test_a_terminal_gets_a_live_line_that_names_the_cell_and_its_work(tmp_path):
    stream, note = Terminal(), tmp_path / "progress"
    live = progress_on(stream, note)
    assert type(live) is Live
    live.start("01_utility", 1, 6, 12)
    live.cell(7)
    note.write_text(state("cvae", 500, 1000, 2.0))
    time.sleep(1.3)
    live.finish(Outcome("01_utility", "failed", "out of memory", 7, 75.0))
    live.close()
    shown = stream.getvalue()
    assert "[1/6] 01_utility: cell 7 of 12" in shown
    assert "cvae: 50 %, 250 images/s, 2.0 s left" in shown
    assert "00:01" in shown  # it ticks while a cell runs
    assert shown.endswith("[1/6] 01_utility: FAILED in cell 7 after 1 min 15 s: out of memory\n")


def test_a_note_that_cannot_be_written_stops_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(NOTE, str(tmp_path / "no folder" / "note"))
    monkeypatch.setattr(module, "NOTE_SECONDS", 0.0)
    with progress(10, "x") as tick:
        tick(5)


def test_threads_count_together(monkeypatch, tmp_path):
    note = tmp_path / "note"
    monkeypatch.setenv(NOTE, str(note))
    monkeypatch.setattr(module, "NOTE_SECONDS", 0.0)
    with progress(4000, "x") as tick:
        threads = [threading.Thread(target=lambda: [tick(1) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert note.read_text().startswith("x: 100 %")


@pytest.mark.parametrize(
    ("seconds", "said"), [(8.44, "8.4 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (0.0, "0.0 s")]
)
def test_duration(seconds, said):
    assert duration(seconds) == said
