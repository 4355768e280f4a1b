"""Tiny checkouts for tests of the report: notebooks built from code, a profile, and a report in a second or two."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from labkit.report.make import make_report
from labkit.report.plan import plan
from labkit.report.progress import Outcome

TINY = {
    "dataset": "digits",
    "train_size": 200,
    "test_size": 100,
    "batch_size": 16,
    "dp_batch_size": 16,
    "gmm_components": [1],
}
PARAMETERS = '# Parameters\nseed = 3  # root of all randomness\ndataset = "auto"  # which'
SHOW = """
from labkit import display
from labkit.plots.style import new_figure
from labkit.results import Check, row
"""
DIE = "import os\nos.kill(os.getpid(), 9)"


def write_notebook(folder: Path, name: str, *cells: str) -> Path:
    """A notebook of ``cells``: Markdown where one begins with ``md:``, else code; ``# Parameters`` gets its tag."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "nowhere", "display_name": "Not here"}})
    for source in cells:
        if source.startswith("md:"):
            cell = nbformat.v4.new_markdown_cell(source.removeprefix("md:"))
        else:
            cell = nbformat.v4.new_code_cell(source)
            if source.startswith("# Parameters"):
                cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def write_profile(folder: Path, **parameters: object) -> Path:
    """``tiny.yaml`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | parameters))
    return path


@dataclass(frozen=True)
class Made:
    """A report that was made: where, how its notebooks ended, what was told on the way."""

    folder: Path
    outcomes: dict[str, Outcome]
    log: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def page(self, name: str) -> str:
        return (self.folder / f"{name}.html").read_text()

    def notebook(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.folder / "notebooks" / f"{name}.ipynb", as_version=4)


def make(notebooks: Path, folder: Path, **parameters: object) -> Made:
    """Run the notebooks and make the report in ``folder``."""
    profile = write_profile(notebooks.parent / "params", **parameters)
    log = io.StringIO()
    outcomes = make_report(plan(str(profile), (), folder, notebooks), log)
    return Made(folder, {o.name: o for o in outcomes}, log.getvalue())


def write_troubled(folder: Path) -> None:
    """Six notebooks: two that are done, one with a failed check, one that fails, one that dies, one that hangs."""
    write_notebook(
        folder,
        "01_utility",
        "md:# 1. Utility\n\nWhat is lost? Of $N$ images",
        PARAMETERS,
        SHOW,
        "md:## Method\n\n$$\\min_\\theta \\frac{1}{N} \\sum_{i=1}^N \\ell(f_\\theta(x_i), y_i)$$\n\n| a |\n|---|\n| 1 |"
        "\n\n### Hostile\n\n<script>document.title = 'owned'</script><img src='https://example.org/x.png'>",
        "import os, sys\nprint(seed, sys.executable, os.environ['LABKIT_START'])",
        "display.show_figure(new_figure(4)[0], 'wide', 'Four <b>empty</b> \"axes\"', main=True)",
        "display.show_figure(new_figure()[0], 'narrow', 'One pair of axes')",
        "standard = row('standard', 'accuracy', 0.9, (0.88, 0.92), n=100, interval='wilson', note='<i>x</i>')\n"
        "display.show_rows([standard] * 30)",
        "display.show_finding('Accuracy is **90 %**, at $\\\\epsilon = 0$.')",
        "display.show_checks([Check('the sum is one', True)])",
    )
    write_notebook(
        folder,
        "02_robustness",
        "md:# 2. Robustness",
        PARAMETERS,
        SHOW,
        "md:## Numbers",
        "from IPython.display import HTML\n"
        "HTML('<p onclick=\"alert(1)\">' + 'word' * 300 + '</p><script>alert(1)</script>')",
        "display.show_checks([Check('attacks agree <here>', False, 'off by 0.2')])",
    )
    write_notebook(
        folder, "03_privacy", "md:# 3. Privacy", PARAMETERS, "1 + 1", "def f(x):\n    return 1 / x\n\nf(0)", "2"
    )
    write_notebook(folder, "04_cvae", "md:# 4. CVAE", PARAMETERS, "print('alive')", DIE, "print('never')")
    write_notebook(folder, "05_gmm", "md:# 5. GMM", PARAMETERS, "import time\ntime.sleep(120)", "3")
    models = "[('standard', 0.9, 0.1, 0.6), ('pgd', 0.8, 0.7, 0.55), ('dp', 0.7, 0.2, 0.5)]"
    write_notebook(
        folder,
        "06_tradeoff",
        "md:# 6. Trade-off",
        PARAMETERS,
        SHOW,
        f"for model, clean, robust, auc in {models}:\n"
        "    display.show_rows([row(model, 'accuracy', clean, (clean - 0.01, clean + 0.01)),\n"
        "        row(model, 'robust_accuracy', robust, attack='pgd', eps=0.1),\n"
        "        row(model, 'robust_accuracy', robust / 2, attack='pgd', eps=0.3),\n"
        "        row(model, 'mia_auc', auc, attack='lira')])",
        "display.show_figure(new_figure(3)[0], 'tradeoff', 'The trade-off', main=True)",
        "display.show_finding('PGD training costs 10 points.')",
    )
