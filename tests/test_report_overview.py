"""The first page's table and findings, from rows by hand; repeated rows in a comparison; whose data a plan names."""

import nbformat
from reporting import write_notebook, write_profile

from labkit import data
from labkit.report import index
from labkit.report.chapter import Chapter
from labkit.report.compare import compare
from labkit.report.plan import plan
from labkit.report.progress import Outcome
from labkit.results import row


def chapter(name, *rows, findings=(), checks=()):
    """A chapter that carries rows."""
    outcome, notebook = Outcome(name, "done"), nbformat.v4.new_notebook()
    said = [{"notebook": name, "text": text} for text in findings]
    return Chapter(outcome, name, notebook, [r.as_dict() for r in rows], list(checks), said, {}, {})


def cells(*rows, name="06_tradeoff"):
    """The overview of one chapter's rows, by model."""
    return {line.model: line for line in index.overview([chapter(name, *rows)], eps=0.1).lines}


def test_below_one_half_an_attack_tells_no_less_than_nothing():
    found = cells(
        row("standard", "mia_auc", 0.5, (0.495, 0.505), attack="rmia"),
        row("dp", "mia_auc", 0.45, (0.44, 0.46), attack="rmia"),
    )
    assert {model: line.cells[0].best for model, line in found.items()} == {"standard": True, "dp": False}


def test_what_cannot_be_told_from_the_best_is_marked_with_it():
    found = cells(
        *(row(m, "accuracy", v, (v - 0.02, v + 0.02)) for m, v in (("standard", 0.9), ("pgd", 0.87), ("dp", 0.8)))
    )
    assert {m: line.cells[0].best for m, line in found.items()} == {"standard": True, "pgd": True, "dp": False}


def test_the_strongest_attack_that_was_tried_stands_for_all():
    rows = [
        row("standard", "robust_accuracy", v, attack=a, eps=0.1)
        for a, v in (("pgd", 0.6), ("autoattack", 0.4), ("pgd_strong", 0.5))
    ]
    assert cells(*rows, name="02_robustness")["standard"].cells[0].value == "40.0 %"
    assert cells(rows[0], rows[2], name="02_robustness")["standard"].cells[0].value == "50.0 %"


def test_the_last_word_on_a_model_counts_and_its_guarantee_is_the_smallest():
    found = cells(
        *(row("dp", "accuracy", v, epsilon=8.0) for v in (0.7, 0.75)),
        row("dp", "mia_auc", 0.5, attack="rmia", epsilon=3.0),
    )
    assert found["dp"].cells[0].value == "75.0 %"
    assert found["dp"].guarantee == "ε = 3"


def test_the_first_finding_of_each_chapter_comes_before_their_others_and_defences_before_utility():
    chapters = [
        chapter("01_utility", findings="ab"),
        chapter("02_robustness", findings="cd"),
        chapter("06_tradeoff", findings="ef"),
    ]
    assert [f["text"] for f in index.findings(chapters)] == list("efcad")


def test_rows_of_one_identity_are_compared_in_their_order():
    a, b = (
        {"rows": [{"model": "m", "metric": "x", "value": v} for v in values]}
        for values in ((1.0, 2.0, 3.0), (1.5, 2.5))
    )
    found = compare(a, b)
    assert [(p.a, p.b) for p in found.pairs] == [(1.0, 1.5), (2.0, 2.5)]
    assert len(found.only_a) == 1


def test_the_provenance_is_of_the_data_of_the_run_s_seed(tmp_path):
    write_notebook(tmp_path / "notebooks", "01_utility", "md:# Utility", "print(1)")
    profile = write_profile(tmp_path / "params", seed=5)
    made = plan(str(profile), (), tmp_path / "report", tmp_path / "notebooks")
    assert made.facts["dataset_sha256"] == data.load("digits", train_size=200, test_size=100, seed=5).sha256
