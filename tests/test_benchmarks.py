"""The benchmarks' own promises: turns alternate, and every number on the page comes from what was kept."""

import json
import re
import time
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from benchmarks import end_to_end, front, optimisers, protocol, reached, render, robust
from benchmarks.protocol import against, in_turn
from benchmarks.report import standing, work_of
from labkit.device import hardware_name
from labkit.lab import Lab
from labkit.networks import build
from labkit.paramfiles import read
from labkit.params import Params, validate
from labkit.store import Store
from labkit.training import LARGE, REGIMES

CPU = torch.device("cpu")
NUMBERS = r"epsilon ([\d.]+): ([\d.]+) % \(([\d.]+) to ([\d.]+)\)"


def test_ways_take_turns_and_the_first_turn_does_not_count():
    called = []
    ways = {"a": lambda: (called.append("a"), time.sleep(0.02)), "b": lambda: called.append("b")}
    taken = in_turn(ways, CPU, 3)
    assert called == ["a", "b"] * 4
    assert [len(t) for t in taken.values()] == [3, 3]
    assert min(taken["a"]) >= 0.02 > max(taken["b"])


def test_a_ratio_is_of_neighbouring_turns():
    result = against("work", "peer", [1.0, 2.0, 1.0], [3.0, 4.0, 8.0], "note", scale=2.0)
    assert result.ratios == [6.0, 4.0, 16.0]
    assert result.ratio == 6.0
    assert (result.ours, result.theirs) == (1.0, 8.0)


def test_slopes_find_the_line():
    speed, intercept, fit = render.slopes([[n, 0.5 + n / 2000] for n in (1000, 2000, 4000, 8000)])
    assert (speed, intercept, fit) == pytest.approx((2000, 0.5, 1.0))


def test_the_page_says_what_was_kept_and_what_was_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    protocol.keep("epoch", [against("an epoch", "a loop", [2.0, 2.0, 2.0], [5.0, 6.0, 8.0], "small")], {}, CPU)
    page = render.page(render.columns())
    assert "| an epoch | a loop | **3.00x** (2.50 to 4.00), 2 s against 6 s |" in page
    assert "Not measured: GPU." in page
    assert "**GPU: not measured.**" in page
    assert torch.__version__.startswith(protocol.surroundings(CPU)["torch"].partition("+")[0])
    protocol.keep("epoch", [against("an epoch", "a loop", [1.0], [7.0], "small")], {}, CPU)
    assert "7.00x" in render.page(render.columns())


def test_the_committed_page_is_made_from_the_committed_results(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "figure", lambda grown: type("Figure", (), {"savefig": lambda *a, **k: None})())
    assert render.PAGE.read_text() == render.page(render.columns())


def test_every_benchmark_can_be_found_and_has_a_text():
    for name in render.BENCHMARKS:
        assert render.measure(name).__doc__


def test_the_chosen_network_is_labkit_s():
    model, candidate = build(0), front.network(front.CANDIDATES[front.CHOSEN])(0)
    assert [p.shape for p in model.parameters()] == [p.shape for p in candidate.parameters()]
    candidate.load_state_dict(dict(zip(candidate.state_dict(), model.state_dict().values(), strict=True)))
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(candidate(x), model(x))


def test_the_front_s_table_holds_what_was_measured():
    kept = json.loads((protocol.RESULTS / "front.json").read_text())["candidates"]
    section = front.section()
    for name, found in kept.items():
        assert f"| {found['parameters']:,} | {found['mflop']:.2f} |" in section, name


def test_the_optimisers_table_holds_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(optimisers, "PATH", tmp_path / "optimisers.json")
    assert optimisers.section() == ""
    entries = [
        {
            "regime": r,
            "epochs": e,
            "optimiser": o,
            "seconds": 7.4,
            "reached": [dict.fromkeys(optimisers.COLUMNS[r], v)] * 2,
        }
        for r, each in optimisers.EPOCHS.items()
        for e in each
        for o, v in (("adamw", 0.5), ("muon", 0.75))
    ]
    kept = {"hardware": "a processor, 2 threads", "torch": "2", "seeds": 2, "entries": entries}
    optimisers.PATH.write_text(json.dumps(kept))
    section = optimisers.section()
    assert "| pgd | 12 | 50.0 | 50.0 | 50.0 | 50.0 | 7 | 75.0 | 75.0 | 75.0 | 75.0 | 7 |" in section
    assert "| standard | 4 | 50.0 |  |  |  | 7 | 75.0 |  |  |  | 7 |" in section


@pytest.mark.parametrize("optimiser", optimisers.RATES)
def test_the_optimisers_are_compared_as_the_quick_profile_trains(optimiser):
    quick = validate(
        read(robust.FULL.with_name("quick.yaml")) | {"optimiser": optimiser, "learning_rate": 0.01}, "quick"
    )
    for regime, epochs in (("standard", quick.epochs), ("pgd", quick.pgd_epochs)):
        theirs = replace(REGIMES[regime](quick, 12_000, epochs), learning_rate=optimisers.RATES[optimiser], piece=LARGE)
        assert optimisers.recipe(regime, epochs, optimiser) == theirs


def test_the_work_of_a_report_counts_what_the_notebooks_ask_for():
    small = {"train_size": 1000, "test_size": 200, "epochs": 3, "shadow_models": 4, "shadow_epochs": 5}
    p = Params(
        **small, seeds=2, defences=["pgd", "ibp"], robust_epochs=7, ibp_epochs=11, robust_eps=[0.1], robust_seeds=3
    )
    counts = work_of(p)
    assert (
        counts["standard"]
        == 2 * 3 * 1000 + 3 * 11 * 1000 + (4 * 5 + 8 * p.shadow_pgd_epochs + 8 * p.shadow_dp_epochs) * 500
    )
    assert counts["pgd"] == 2 * p.pgd_epochs * 1000 + 3 * 7 * 1000 + 8 * p.shadow_pgd_epochs * 500
    assert counts["dp"] == 2 * p.dp_epochs * 4 * 1000 + p.shadow_dp_epochs * (1000 + 8 * 500)
    assert counts["linear"] == 2 * 1000 * p.frontier_epochs * len(p.frontier_epsilon)
    assert set(REGIMES) <= set(counts)
    assert work_of(p.model_copy(update={"attack_size": 100}))["attack_steps"] < counts["attack_steps"]


def test_autoattack_meets_what_strong_pgd_leaves_of_classifiers():
    of = {"notebook": "02_robustness", "metric": "robust_accuracy", "attack": "pgd_strong", "n": 64}
    rows = [{**of, "model": "pgd", "value": 0.75}, {**of, "model": "trades", "value": 0.25}]
    others = [{**rows[0], name: other} for name, other in {"model": "gmm", "attack": "pgd", "metric": "added"}.items()]
    assert standing([*rows, *others]) == 48 + 16


def test_a_defence_is_judged_on_images_that_it_did_not_see(tmp_path):
    lab = Lab(
        Params(dataset="digits", train_size=600, test_size=200, gmm_components=[1], robust_epochs=1), Store(tmp_path)
    )
    held_out, tested = (robust.judged(lab, 25, test=test) for test in (False, True))
    assert len(held_out.unique()) == len(tested.unique()) == 25
    assert not lab.classifiers("pgd", 0.1).members[:, held_out].any()
    assert tested.max() < 200


def test_the_table_of_a_defence(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    small = {"dataset": "digits", "train_size": 600, "test_size": 200, "robust_epochs": 2, "robust_width": 1}
    small |= {"batch_size": 32, "train_steps": 1, "validation_share": 0.1, "gmm_components": "[1]"}
    changes = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    held_out, tested = (
        CliRunner()
        .invoke(robust.main, ["pgd", "0.1", "--images", "20", *changes, *more], catch_exceptions=False)
        .output
        for more in ([], ["--test"])
    )
    assert "20 held-out images" in held_out
    assert "20 test images" in tested
    assert "vnd.labkit" not in tested  # what a notebook carries is not for a terminal
    table = [line.split("|") for line in tested.splitlines() if line.startswith("| ")]
    shares = [float(cells[2].split("%")[0]) for cells in table[1:]]
    clean, *attacked, proved = shares  # clean and certified are of all test images
    assert len(attacked) == 7
    assert attacked == sorted(attacked, reverse=True)
    assert proved <= clean


def test_an_end_to_end_private_network_keeps_its_epsilon(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    small = {"dataset": "digits", "train_size": 600, "test_size": 200, "dp_epochs": 2, "dp_batch_size": 60}
    changes = [
        part for name, value in {**small, "gmm_components": "[1]"}.items() for part in ("--set", f"{name}={value}")
    ]
    said = CliRunner().invoke(end_to_end.main, ["3", "--seeds", "2", "--test", *changes], catch_exceptions=False).output
    proved, mean, low, high = (float(found) for found in re.search(NUMBERS, said).groups())
    assert 2.9 < proved <= 3
    assert 0 <= low <= mean <= high <= 100


def test_what_was_reached_is_kept_by_its_settings_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(reached, "PATH", tmp_path / "reached.json")
    assert reached.section() == ""
    columns = ("clean", *reached.ATTACKS, "certified")
    for value in (0.1, 0.2):  # the second takes the first one's place
        r = {"value": value, "low": 0.05, "high": 0.25}
        facts = {"rows": dict.fromkeys(columns, r), "attacked": 30, "seconds": 7.0, "changed": []}
        reached.keep("robust", "pgd at 0.1", facts, CPU)
    unlike = {"value": 0.3, "low": 0.15, "high": 0.35}
    other = dict.fromkeys(columns, unlike)
    reached.keep("robust", "pgd at 0.1", {**facts, "rows": other, "changed": ["train_steps=2"]}, CPU)  # beside them
    r = {"epsilon": 2.98, "value": 0.8, "low": 0.7, "high": 0.9, "models": 3}
    reached.keep("private", "end to end, 3", {"row": r, "seconds": 5.0, "changed": ["dp_epochs=30"]}, CPU)
    section = reached.section()
    for value, interval in (("20.0", "(5.0 to 25.0)"), ("30.0", "(15.0 to 35.0)")):
        assert section.count(f" {value} % {interval} ") == 3  # clean, AutoAttack, certified
        assert section.count(f" {value} ") == len(columns)
    assert "10.0 %" not in section
    said = f"80.0 % (70.0 to 90.0) | 3 | 5 | {hardware_name(CPU)}"
    assert f"| end to end, 3 | 2.980 |  | {said} | dp_epochs=30 |" in section
    reached.keep("held out", "end to end, 3", {"row": r, "seconds": 5.0, "changed": [], "rate": 0.7}, CPU)
    table = reached.section().partition("held-out")[2]
    assert f"| end to end, 3 | 2.980 | 0.7 | {said} | as in full |" in table
    rows = [line.count("|") for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert rows[4] == rows[5] == rows[6]
