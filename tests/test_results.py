"""Rows travel inside the executed notebook and come back as they went in."""

import json
import math
import re

import numpy as np
import pytest
import torch

from labkit import display
from labkit.results import MIME, Check, Row, bundle, collect, find, overlap, percent, points, row

ACCURACY = row("pgd", "robust_accuracy", 0.71, (0.69, 0.73), n=3000, interval="wilson", attack="pgd", eps=0.1)


def notebook(*payloads: dict) -> dict:
    """An executed notebook with one code cell an output, between cells that carry nothing."""
    outputs = [{"output_type": "display_data", "data": {MIME: payload, "text/plain": ""}} for payload in payloads]
    cells = [{"cell_type": "code", "outputs": [output]} for output in outputs]
    plain = {"cell_type": "code", "outputs": [{"output_type": "stream", "name": "stdout", "text": "hello"}]}
    return {"cells": [{"cell_type": "markdown", "source": "# Title"}, *cells, plain]}


def test_a_row_is_flat() -> None:
    assert ACCURACY.as_dict() == {
        "model": "pgd",
        "metric": "robust_accuracy",
        "attack": "pgd",
        "eps": 0.1,
        "value": 0.71,
        "low": 0.69,
        "high": 0.73,
        "n": 3000,
        "interval": "wilson",
    }
    assert row("dp", "loss", torch.tensor(0.25)).as_dict()["value"] == 0.25
    assert row("dp", "loss", 0.25).as_dict()["low"] is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_what_is_not_finite_becomes_null(number) -> None:
    flat = row("gmm", "loss", number, (number, 1.0), eps=number).as_dict()
    assert (flat["value"], flat["low"], flat["high"], flat["eps"]) == (None, None, 1.0, None)
    json.dumps(flat, allow_nan=False)


def test_scalars_of_numpy_and_torch_become_plain() -> None:
    flat = row("gmm", "accuracy", np.float64(0.5), n=np.int64(7), eps=torch.tensor(0.5), k=np.int32(3)).as_dict()
    assert [type(flat[name]) for name in ("value", "n", "eps", "k")] == [float, int, float, int]


def test_what_is_carried_comes_back() -> None:
    checks = [Check("monotone in eps", np.bool_(True)), Check("ball respected", False, "0.31 > 0.3")]
    executed = notebook(
        bundle(provenance={"dataset": "digits", "device": "cpu"}),
        bundle(rows=[ACCURACY]),
        bundle(checks=checks, findings=["PGD training buys robustness."]),
        bundle(rows=[row("gmm", "accuracy", math.nan)], provenance={"device": "cuda"}),
    )
    found = collect(json.loads(json.dumps(executed)), "02_robustness")
    assert found["rows"][0] == {"notebook": "02_robustness", **ACCURACY.as_dict()}
    assert found["rows"][1]["value"] is None
    assert found["checks"] == [
        {"notebook": "02_robustness", "name": "monotone in eps", "passed": True, "detail": ""},
        {"notebook": "02_robustness", "name": "ball respected", "passed": False, "detail": "0.31 > 0.3"},
    ]
    assert found["findings"] == [{"notebook": "02_robustness", "text": "PGD training buys robustness."}]
    assert found["provenance"] == {"dataset": "digits", "device": "cuda"}


def test_a_notebook_that_carries_nothing() -> None:
    empty = {"rows": [], "checks": [], "findings": [], "provenance": {}}
    assert collect({}, "x") == collect({"cells": []}, "x") == collect(notebook(), "x") == empty


def test_a_bundle_refuses_what_nobody_reads() -> None:
    with pytest.raises(ValueError, match=r"not \['figures'\]"):
        bundle(rows=[], figures=[])
    with pytest.raises(ValueError, match="not JSON compliant"):
        bundle(provenance={"seconds": math.nan})


def test_find_takes_rows_by_their_entries() -> None:
    rows = [row("pgd", "accuracy", 0.8).as_dict(), ACCURACY.as_dict()]
    assert find(rows, model="pgd") == rows
    assert find(rows, model="pgd", eps=0.1) == [rows[1]]
    assert find(rows, model="dp") == []


def test_percent_reads_with_its_interval() -> None:
    assert percent(ACCURACY) == "71.0 % (69.0 to 73.0)"
    assert percent(ACCURACY.as_dict(), digits=0) == "71 % (69 to 73)"
    assert percent(Row("pgd", "accuracy", 0.8)) == "80.0 %"


def test_points_read_as_more_or_less() -> None:
    assert points(Row("pgd", "difference", -0.054, -0.067, -0.041)) == "5.4 points less (4.1 to 6.7)"
    assert points(Row("pgd", "difference", 0.02, -0.01, 0.05).as_dict()) == "2.0 points more (-1.0 to 5.0)"


def test_what_all_rows_of_a_table_share_is_said_once(monkeypatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr(display, "_show", lambda bundled, **_: shown.append(bundled))
    rows = [
        row("pgd", "accuracy", v, (v - 0.1, v + 0.1), n=30, interval="wilson", eps=e)
        for v, e in ((0.5, 0.1), (0.5, 0.2))
    ]
    display.show_rows(rows, "Some <rows>")
    page = shown[0]["text/html"]
    assert "Some &lt;rows&gt;<br>" in page
    assert "In every row: model pgd, metric accuracy, n 30, interval wilson." in page
    assert re.findall(r"<th[^>]*>([^<]+)</th>", page) == ["eps", "value", "low", "high"]
    assert shown[0][MIME]["rows"] == [r.as_dict() for r in rows]  # what it carries is whole
    display.show_rows(rows[:1])
    assert "In every row" not in shown[1]["text/html"]
    assert shown[1]["text/html"].count("<th") == 8 + 1  # columns, and thead
    display.show_rows([row("pgd", "accuracy", 0.5, n=30), row("pgd", "robust_accuracy", 0.4, attack="pgd", steps=10)])
    columns = re.findall(r"<th[^>]*>([^<]+)</th>", shown[2]["text/html"])
    assert columns == ["metric", "attack", "value", "steps", "n"]  # what some rows lack comes after the figures


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((0.75446, 0.6045, 0.90441), ["0.75", "0.60", "0.90"]),  # half a width of 0.15
        ((0.6364, 0.6301, 0.6427), ["0.6364", "0.6301", "0.6427"]),
        ((12.3456, 9.0, 15.6), ["12.3", "9.0", "15.6"]),
        ((0.7545, None, None), ["0.7545", "", ""]),
        ((1.0, 1.0, 1.0), ["1", "1", "1"]),
        ((float("nan"), 0.25, 0.75), ["", "0.25", "0.75"]),
    ],
)
def test_figures_have_the_digits_that_their_interval_bears(figures, said, monkeypatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr(display, "_show", lambda bundled, **_: shown.append(bundled))
    value, low, high = figures
    display.show_rows([row("pgd", "accuracy", value, None if low is None else (low, high))])
    cells = dict(
        zip(
            re.findall(r"<th[^>]*>([^<]+)</th>", shown[0]["text/html"]),
            re.findall(r"<td[^>]*>([^<]*)</td>", shown[0]["text/html"]),
            strict=True,
        )
    )
    assert [cells.get(name, "") for name in ("value", "low", "high")] == said


def test_what_few_rows_say_stands_in_one_column(monkeypatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr(display, "_show", lambda bundled, **_: shown.append(bundled))
    attacked = row("pgd", "robust_accuracy", 0.4, eps=0.1, steps=100, stride=0.25, judged="every <step>")
    rows = [row("pgd", metric, 0.5) for metric in ("accuracy", "mia_auc")] + [attacked]
    display.show_rows(rows)
    page = shown[0]["text/html"]
    assert re.findall(r"<th[^>]*>([^<]+)</th>", page) == ["metric", "eps", "value", "besides"]
    assert '<td class="words">steps 100, stride 0.25, judged every &lt;step&gt;</td>' in page
    assert shown[0][MIME]["rows"] == [r.as_dict() for r in rows]
    display.show_rows([*rows[1:], attacked])  # most of them say it
    assert "besides" not in shown[1]["text/html"]


@pytest.mark.parametrize(
    ("a", "b", "meet"),
    [((0.1, 0.2), (0.2, 0.3), True), ((0.1, 0.2), (0.21, 0.3), False), ((0.1, 0.4), (0.2, 0.3), True)],
)
def test_intervals_meet_or_not(a, b, meet) -> None:
    one, other = (row("m", "accuracy", sum(ends) / 2, ends).as_dict() for ends in (a, b))
    assert overlap(one, other) is overlap(other, one) is meet
    assert overlap(one, row("m", "accuracy", a[0]).as_dict())  # without an interval, the value itself
    assert not overlap(one, row("m", "accuracy", a[1] + 0.01).as_dict())
