"""The command line: exit codes, every problem at once, and an old report that survives a refusal."""

import json
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest
from reporting import Made, write_notebook, write_profile

import labkit
from labkit import data
from labkit.cli import cli
from labkit.report import plan as planning
from labkit.report.compare import compare
from labkit.report.publish import Unpublished


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one notebook that is done at once, the working directory, and its profile ``tiny``."""
    write_notebook(tmp_path / "notebooks", "01_utility", "md:# Utility", "print(1)")
    write_profile(tmp_path / "params")
    monkeypatch.setattr(planning, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_START", str(tmp_path))  # the command sets it; here it must not outlive the test
    return tmp_path


ROW = {"model": "pgd", "metric": "accuracy"}


def labkit_(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, arguments, prog_name="labkit")


def report_in(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_report_goes_to_the_profiles_folder_and_ends_with_0(checkout: Path):
    result = labkit_("report", "tiny", "--set", "seed=5", "--set", "attack_eps=[0.05, 0.1]")
    assert result.exit_code == 0, result.output
    summary = json.loads((checkout / "reports" / "tiny" / "summary.json").read_text())
    assert summary["provenance"]["parameters"]["seed"] == 5
    assert summary["provenance"]["parameters"]["attack_eps"] == [0.05, 0.1]
    assert str(Path("reports", "tiny", "index.html")) in result.output


@pytest.mark.slow
def test_a_failed_notebook_ends_with_1_and_a_report(checkout: Path):
    write_notebook(checkout / "notebooks", "02_broken", "md:# Broken", "raise ValueError('on <purpose>')")
    result = labkit_("report", "tiny", "--out", "here")
    assert result.exit_code == 1
    assert "02_broken FAILED in cell 3" in result.output
    assert "on &lt;purpose&gt;" in (checkout / "here" / "index.html").read_text()


def test_a_refusal_lists_every_problem_runs_nothing_and_leaves_the_old_report(checkout: Path):
    folder = checkout / "reports" / "tiny"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("old")
    write_profile(checkout / "params", epoch=3, seed=-1)
    (checkout / "notebooks" / "02_torn.ipynb").write_text('{"cells": [')
    result = labkit_("report", "tiny", "--set", "batch_size", "--set", "pgd_steps=many")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for problem in ("epoch: unknown", "did you mean epochs?", "seed: -1", "'batch_size' is not KEY=VALUE", "'many'"):
        assert problem in result.output
    assert "02_torn.ipynb: is no valid notebook" in result.output
    assert "5 problems" in result.output
    assert report_in(folder) == {"index.html": "old"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "quik"], "is no profile"),
        (["report", "nowhere.yaml"], "cannot be read"),
        (["report", "tiny", "--out", "tiny.txt"], "is no folder"),
        (["report", "tiny", "--out", "."], "would be overwritten"),
        (["report", "tiny", "--set", "device=cuda", "--set", "seed=x"], "'x' given"),
        (["report", "tiny", "--nonsense"], "No such option"),
        (["report", "tiny", "more"], "unexpected extra argument"),
        (["nonsense"], "No such command"),
        (["compare", "a", "b"], "cannot be read"),
        (["data", "cifar"], "cifar"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(checkout: Path, arguments: list[str], said: str):
    (checkout / "tiny.txt").write_text("a file")
    before = report_in(checkout)
    result = labkit_(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert report_in(checkout) == before


def test_data_that_cannot_be_had_ends_with_2(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise data.DataError("train-images-idx3-ubyte.gz is torn; delete it")

    monkeypatch.setattr(data, "load", refuse)
    for arguments in (("report", "tiny"), ("data", "fashion_mnist")):
        result = labkit_(*arguments)
        assert result.exit_code == 2
        assert "train-images-idx3-ubyte.gz is torn; delete it" in result.output
    assert not (checkout / "reports").exists()


def test_a_store_that_cannot_be_written_ends_with_2(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    (checkout / "taken").write_text("a file, no folder")
    monkeypatch.setenv("LABKIT_CACHE", "taken")
    result = labkit_("report", "tiny")
    assert result.exit_code == 2
    assert "set LABKIT_CACHE to a folder that can" in result.output
    assert not (checkout / "reports").exists()


def test_the_store_is_looked_at_whatever_the_parameters(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    (checkout / "taken").write_text("a file, no folder")
    monkeypatch.setenv("LABKIT_CACHE", "taken")
    result = labkit_("report", "tiny", "--set", "seed=-1", "--set", "train_size=")
    assert result.exit_code == 2
    assert "3 problems" in result.output
    for problem in ("seed: -1", "write train_size=null", "set LABKIT_CACHE to a folder that can"):
        assert problem in result.output


def test_mixtures_are_held_against_the_images_that_there_are(checkout: Path):
    """All images are 60 000, unless they are the digits."""
    result = labkit_("report", "tiny", "--set", "train_size=null", "--set", "gmm_components=60")
    assert result.exit_code == 2
    assert "gmm_components: K = 60 may be more than a class has images" in result.output
    assert "1297 training images" in result.output


def test_whatever_stands_in_a_report_s_way_is_told_before_anything_runs(checkout: Path):
    (checkout / "here" / "index.html").mkdir(parents=True)
    for leaf in ("figures", "notebooks"):
        (checkout / "here" / leaf).write_text("a file")
    result = labkit_("report", "tiny", "--out", "here")
    assert result.exit_code == 2
    assert "3 problems" in result.output
    for said in ("figures is no folder", "notebooks is no folder", "index.html is a folder, where a file goes"):
        assert said in result.output


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Unpublished("03.html cannot be put in place; it lies in unpublished-x"), "labkit: 03.html cannot be put"),
        (OSError(28, "No space left on device"), "nothing was published, the old report stands"),
    ],
)
def test_a_report_that_cannot_be_written_ends_with_1(checkout: Path, monkeypatch, trouble: Exception, said: str):
    def fail(*args: object) -> None:
        raise trouble

    monkeypatch.setattr("labkit.report.make.make_report", fail)
    result = labkit_("report", "tiny")
    assert result.exit_code == 1
    assert said in result.output
    assert ("nothing was published" in result.output) == isinstance(trouble, OSError)


def test_without_notebooks_the_remedy_is_named(checkout: Path):
    (checkout / "notebooks" / "01_utility.ipynb").unlink()
    result = labkit_("report", "tiny")
    assert result.exit_code == 2
    assert "pip install -e" in result.output


def test_data_shows_what_is_there(checkout: Path):
    result = labkit_("data", "digits")
    assert result.exit_code == 0
    assert "scikit-learn digits" in result.output
    assert "sha256" in result.output


def test_help_and_version_do_not_wait_for_torch():
    for arguments in (["--version"], ["--help"], ["report", "--help"]):
        code = f"import sys\nsys.argv = ['labkit', *{arguments!r}]\nimport runpy\n"
        code += "try:\n    runpy.run_module('labkit', run_name='__main__')\n"
        code += "finally:\n    assert not {'torch', 'papermill', 'matplotlib'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("Usage" in done.stdout) or (labkit.__version__ in done.stdout)


# Comparing


def summary(*rows: dict[str, object], **parameters: object) -> dict[str, object]:
    return {"schema": 1, "provenance": {"parameters": parameters}, "rows": list(rows), "checks": []}


def test_compare_matches_on_identity_and_looks_at_the_intervals():
    base = {"notebook": "01", "model": "pgd", "metric": "accuracy"}
    a = summary(
        base | {"value": 0.80, "low": 0.78, "high": 0.82, "n": 100, "eps": None},
        base | {"eps": 0.1, "value": 0.5, "low": 0.4, "high": 0.6},
        base | {"eps": 0.2, "value": 0.5},
        base | {"eps": 0.3, "value": 0.1},
        epochs=3,
        seed=0,
    )
    b = summary(
        base | {"eps": 0.1, "value": 0.55, "low": 0.45, "high": 0.65},
        base | {"value": 0.85, "low": 0.83, "high": 0.87, "n": 999},
        base | {"eps": 0.2, "value": 0.5},
        base | {"eps": 0.4, "value": 0.1},
        epochs=4,
        seed=0,
    )
    found = compare(a, b)
    assert [(p.identity.get("eps"), round(p.difference, 9), p.overlap) for p in found.pairs] == [
        (None, 0.05, False),
        (0.1, 0.05, True),
        (0.2, 0.0, None),
    ]
    assert [r["eps"] for r in found.only_a] == [0.3]
    assert [r["eps"] for r in found.only_b] == [0.4]
    assert found.parameters == [("epochs", 3, 4)]


def test_compare_matches_what_two_runs_found_and_proved_a_little_differently():
    base = {"notebook": "03", "model": "dp", "metric": "epsilon_lower_bound"}
    a = summary(base | {"epsilon": 7.9954, "guesses": 150, "value": 3.0}, base | {"epsilon": 0.9975, "value": 0.5})
    b = summary(base | {"epsilon": 7.9962, "guesses": 270, "value": 3.1}, base | {"epsilon": 2.9948, "value": 0.5})
    found = compare(a, b)
    assert [(p.identity["epsilon"], round(p.difference, 9)) for p in found.pairs] == [(8.0, 0.1)]
    assert [r["epsilon"] for r in (*found.only_a, *found.only_b)] == [1.0, 3.0]


@pytest.mark.slow
def test_a_report_compared_with_itself_has_nothing_apart(troubled: Made):
    result = labkit_("compare", str(troubled.folder), str(troubled.folder / "summary.json"))
    assert result.exit_code == 0
    assert f"{len(troubled.summary['rows'])} rows compared, 0 with intervals apart" in result.output


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 2, "rows": []}', "\x00", '{"a":' * 5000]
    + [json.dumps({"schema": 1, "rows": [row]}) for row in (3, ROW, ROW | {"value": "0.5"}, {"value": 0.5})]
    + [json.dumps({"schema": 1, "rows": [], "provenance": facts}) for facts in (None, {"parameters": [1]})],
)
def test_compare_refuses_what_is_no_summary(tmp_path: Path, content: str):
    path = tmp_path / "summary.json"
    path.write_text(content)
    result = labkit_("compare", str(tmp_path), str(tmp_path))
    assert result.exit_code == 2
    assert str(path) in result.output
