"""Which runs of an attack share a batch, and what is kept of them."""

import pytest
import torch
from attacked import ATTACKS, images, network
from hypothesis import given
from hypothesis import strategies as st

from labkit.attacks import boundary_distance, withstand
from labkit.attacks.points import strongest, waves
from labkit.workers import PIECE


@given(runs=st.integers(1, 12), points=st.integers(0, 300), fall=st.integers(0, 3), seed=st.integers(0, 99))
def test_every_run_of_a_point_that_stands_has_its_turn_once(runs, points, fall, seed):
    draw = torch.Generator().manual_seed(seed)
    stands, turns = torch.ones(points, dtype=torch.bool), []
    for wave, rows in waves(runs, stands):
        assert torch.equal(rows, stands.nonzero()[:, 0])
        assert len(wave) == 1 or len(wave) * len(rows) <= 4 * PIECE
        turns += wave
        if fall:
            stands[rows[torch.rand(len(rows), generator=draw) < fall / 3]] = False
    assert turns == list(range(len(turns)))
    assert len(turns) == runs or not stands.any()


def test_few_points_have_many_runs_at_once():
    assert [list(wave) for wave, _ in waves(9, torch.ones(45, dtype=torch.bool))] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert [len(wave) for wave, _ in waves(3, torch.ones(1000, dtype=torch.bool))] == [1, 1, 1]


def test_the_strongest_run_is_the_first_of_equals_and_never_nan():
    value = torch.tensor([[1.0, torch.nan, 3.0], [2.0, 5.0, 3.0], [2.0, torch.nan, -torch.inf]])  # [runs, points]
    best, which = strongest(3, value.flatten(), torch.arange(9))
    assert best.tolist() == [2.0, 5.0, 3.0]
    assert which.tolist() == [3, 4, 2]


@pytest.mark.parametrize("name", ["pgd", "apgd-t", "fab-t", "withstand", "distance"])
def test_runs_at_once_find_what_runs_one_by_one_find(name, monkeypatch):
    several = {
        "pgd": lambda *at: ATTACKS["pgd ce"](*at, restarts=5),
        "apgd-t": ATTACKS["apgd-t"],
        "fab-t": ATTACKS["fab-t"],
        "withstand": lambda *at: withstand(*at, steps=5, restarts=5),
        "distance": lambda model, x, y, eps: boundary_distance(model, x, y, steps=9, targets=3),
    }[name]
    model, x = network().double(), images(25).double()
    y = model(x).argmax(1)
    together = several(model, x, y, 0.05)
    monkeypatch.setattr("labkit.attacks.points.CORES", 0)
    alone = several(model, x, y, 0.05)
    if name == "fab-t":  # of several targets that break a point it is then the nearest, not the first
        together, alone = (model(found).argmax(1) == y for found in (together, alone))
        assert 0 < alone.sum() < 25
    torch.testing.assert_close(together, alone)
