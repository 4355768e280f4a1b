"""Run a notebook headless by papermill, in a kernel of the Python that runs labkit, and say how it ended.

papermill alone calls a notebook whose kernel was killed complete, with no exception in it. Here a failed
cell, a dead kernel and a time-out all end the same way: in the executed file (``metadata.labkit`` and an
error output in the cell), and in the :class:`~labkit.report.progress.Outcome`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.filters import strip_ansi
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from traitlets import default

from labkit.progress import NOTE
from labkit.report.progress import Log, Outcome
from labkit.store import write_whole

_START_SECONDS = 180  # torch on a slow disk, beside other work
_MESSAGE_SECONDS = 60  # nbclient's 4 s between a cell's end and its last output are too few on a busy machine
_REASON_LENGTH = 400


class _ThisPython(KernelSpecManager):
    """Whatever kernel a notebook names, it gets the Python that runs labkit."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"],
            display_name="Python of labkit",
            language="python",
            env={
                # jupyter_client reads $NAME in these values; a folder's name may hold a dollar.
                "LABKIT_START": os.getcwd().replace("$", "$$"),
                # What a notebook prints about the debugger is no result.
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )


class _Kernel(AsyncKernelManager):
    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return _ThisPython(parent=self)


def run_notebook(
    source: Path, target: Path, parameters: Mapping[str, Any], progress: Log, timeout: int | None = None
) -> Outcome:
    """Execute ``source`` and write it to ``target``, which appears when it is whole.

    Args:
        source: the notebook; its kernel's name is of no matter.
        target: the executed notebook; the folder exists. Work in progress lies in the folder's parent.
        parameters: handed to the notebook as ``papermill -f`` would.
        progress: is told which cell runs.
        timeout: seconds a cell may take; None for no limit.

    Returns:
        how it ended; also written into the file, as ``metadata.labkit``.

    Raises:
        KeyboardInterrupt: the kernel is stopped and ``target`` not written.
    """
    name = source.stem
    started = time.monotonic()
    at = 0  # index of the cell that runs
    reason: str | None = None
    unfinished = target.parent.parent / f"running-{source.name}"

    def cell_starts(cell: Any, cell_index: int) -> None:
        nonlocal at
        at = cell_index
        progress.cell(cell_index + 1)

    try:
        with _silent_papermill(), _noted_at(progress.note):
            papermill.execute_notebook(
                _literal(source),
                _literal(unfinished),
                dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=_START_SECONDS,
                execution_timeout=timeout,
                kernel_manager_class=_Kernel,
                shutdown_kernel="immediate",
                iopub_timeout=_MESSAGE_SECONDS,
                on_cell_start=cell_starts,
            )
    except PapermillExecutionError as error:
        at, reason = error.cell_index, f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        reason = "the kernel died (killed from outside, out of memory, or a crash in native code)"
    except CellTimeoutError:
        reason = f"time-out: the cell took longer than cell_timeout = {timeout} seconds; raise cell_timeout"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"

    try:
        notebook = nbformat.read(unfinished, as_version=4)
    except (OSError, ValueError) as error:  # papermill did not come to write it, or not to the end
        reason = reason or f"the executed notebook cannot be read ({type(error).__name__}: {error})"
        notebook = nbformat.read(source, as_version=4)
    unfinished.unlink(missing_ok=True)
    # papermill's own marks are HTML in two more cells, which would shift the count of cells.
    notebook = remove_error_markers(notebook)
    if reason is None and notebook.metadata.get("papermill", {}).get("exception"):
        reason = "the notebook ended itself (SystemExit) before its last cell"
    seconds = round(time.monotonic() - started, 2)
    if reason is None:
        outcome = Outcome(name, "done", seconds=seconds)
    else:
        outcome = Outcome(name, "failed", _one_line(reason), at + 1, seconds)
        _mark_failed(notebook, at, outcome)
    _describe(notebook, outcome)
    write_whole(target, nbformat.writes(notebook).encode())
    return outcome


@contextmanager
def _noted_at(note: Path) -> Iterator[None]:
    """Kernels started inside say there how far their long work is."""
    before = os.environ.get(NOTE)
    os.environ[NOTE] = str(note)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        if before is None:
            del os.environ[NOTE]
        else:
            os.environ[NOTE] = before


def _literal(path: Path) -> str:
    """papermill formats paths with ``str.format``; a brace in one is a brace."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _one_line(text: str) -> str:
    line = " ".join(strip_ansi(text).split())
    return line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 1] + "…"


@contextmanager
def _silent_papermill() -> Iterator[None]:
    """Every notebook gets every parameter; papermill warns of those that it does not declare."""
    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _mark_failed(notebook: nbformat.NotebookNode, at: int, outcome: Outcome) -> None:
    """Make the file itself show what happened: an error output, and no cell called complete that is not."""
    for index, cell in enumerate(notebook.cells):
        status = cell.metadata.setdefault("papermill", {})
        if index == at:
            status |= {"status": "failed", "exception": True}
        elif index > at:
            status |= {"status": "pending", "exception": None}
    notebook.metadata.setdefault("papermill", {})["exception"] = True
    cell = next((c for c in notebook.cells[at:] if c.cell_type == "code"), None)
    if cell is not None and not any(output.output_type == "error" for output in cell.outputs):
        text = f"labkit: {outcome.reason}"
        error = nbformat.v4.new_output("error", ename="labkit", evalue=outcome.reason, traceback=[text])
        cell.outputs.append(error)


def _describe(notebook: nbformat.NotebookNode, outcome: Outcome) -> None:
    """Write the outcome into the notebook, and take this machine's folders out of it."""
    notebook.metadata["labkit"] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "cell": outcome.cell,
        "seconds": outcome.seconds,
    }
    for key in ("input_path", "output_path"):
        if notebook.metadata.get("papermill", {}).get(key):
            notebook.metadata.papermill[key] = f"{outcome.name}.ipynb"
