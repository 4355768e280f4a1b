"""The speed run in small: its schedule, its views of images, its clock, its network and optimiser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks import render, speedrun
from benchmarks.speednet import DECAY, MOMENTUM, PEAK, Muon, SpeedNet, build, orthogonal
from benchmarks.speedrun import Recipe, course, draw_views, look, score, timed, train
from labkit import data
from labkit.data import Split
from labkit.device import generator
from labkit.workers import Crew

CPU = torch.device("cpu")
TINY = Recipe(0.9, epochs=6, widths=(16, 24, 32), shift=1, hole=0, batch_size=100)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Threads that share a step this small wait for each other more than they compute."""
    with Crew(1):
        yield


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def noise(n: int = 64) -> Split:
    draw = generator(0, "noise")
    pixels = torch.randint(256, (n, 1, 28, 28), generator=draw, dtype=torch.uint8)
    return Split(pixels, torch.randint(10, (n,), generator=draw))


# Views


def moved(image, mirrored, down, across):
    """A mirrored and moved image, pixel by pixel; black comes in at the edges."""
    out = torch.zeros(28, 28)
    for i in range(28):
        for j in range(28):
            row, column = i + down, (27 - j if mirrored else j) + across
            if 0 <= row < 28 and 0 <= column < 28:
                out[i, j] = image[row, column]
    return out


def test_an_epoch_sees_each_image_once_moved_by_no_more_than_said() -> None:
    mirrored = torch.rand(500, generator=generator(0, "mirrored")) < 0.5
    views = draw_views(500, replace(TINY, shift=2), mirrored, generator(0, "views"))
    index, flags, shifts, centres = views[:, 0], views[:, 1], views[:, 2:4], views[:, 4:]
    assert torch.equal(index.sort().values, torch.arange(500))
    assert not torch.equal(index, torch.arange(500))
    assert torch.equal(flags.bool(), mirrored[index])
    assert (shifts.min(), shifts.max()) == (0, 4)
    assert (centres.min(), centres.max()) == (0, 27)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_view_is_the_image_mirrored_and_moved(shift: int) -> None:
    split = noise()
    padded = torch.nn.functional.pad(split.pixels[:, 0], (shift,) * 4)
    mirrored = torch.rand(64, generator=generator(1, "mirrored")) < 0.5
    views = draw_views(64, replace(TINY, shift=shift), mirrored, generator(1, "views"))
    seen = look(padded, views, hole=0)
    assert seen.shape == (64, 1, 28, 28)
    for view, image in zip(views[:20].tolist(), seen, strict=False):
        wanted = moved(split.images[view[0], 0], view[1], view[2] - shift, view[3] - shift)
        assert torch.equal(image[0], wanted)


@pytest.mark.parametrize("hole", [1, 5, 8])
def test_a_hole_is_a_black_square_and_nothing_else_changes(hole: int) -> None:
    split = noise()
    padded = torch.nn.functional.pad(split.pixels[:, 0].clamp(min=1), (1,) * 4, value=1)
    views = draw_views(64, TINY, torch.zeros(64, dtype=torch.bool), generator(2, "views"))
    whole, holed = look(padded, views, hole=0), look(padded, views, hole=hole)
    side = hole - 1 + hole % 2
    assert (holed >= 0).all()
    assert (holed <= 1).all()
    for view, before, after in zip(views, whole[:, 0], holed[:, 0], strict=True):
        rows, columns = (after == 0).nonzero().T
        centre = view[4:]
        reach = side // 2
        assert torch.equal(after[after > 0], before[after > 0])
        assert (
            len(rows)
            == torch.stack([(centre + reach).clamp(max=27), (centre - reach).clamp(min=0)])
            .diff(dim=0)
            .abs()
            .add(1)
            .prod()
        )
        assert (rows - centre[0]).abs().max() <= reach
        assert (columns - centre[1]).abs().max() <= reach


def test_an_image_is_mirrored_every_other_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(n, recipe, mirrored, draw):
        seen.append(mirrored.clone())
        return draw_views(n, recipe, mirrored, draw)

    monkeypatch.setattr(speedrun, "draw_views", spy)
    train(replace(TINY, epochs=3, batch_size=32), noise(), 0)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[0], ~seen[1])
    assert 0 < seen[0].sum() < 64


# Network and optimiser


def test_the_first_layer_whitens() -> None:
    fine = noise(200).pixels.float()
    pixels = (fine + fine.roll(1, 3) + 2 * fine.roll(2, 2)) / 4  # neighbours that are alike
    split = Split(pixels.to(torch.uint8), noise(200).labels)
    out = build(TINY.widths, split, 0).patches(split.images).movedim(1, 3).flatten(0, 2)  # [P, 18]
    assert torch.allclose(out[:, :9], -out[:, 9:], atol=1e-4)
    assert out.mean(0).abs().max() < 1e-3
    assert torch.allclose(torch.cov(out[:, :9].T), torch.eye(9), atol=0.03)


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (build(TINY.widths, noise(), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("shape", [(32, 162), (64, 64), (48, 20)])
def test_updates_of_convolutions_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=generator(0, "matrix"))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix, steps=5)
    values = (u.T @ found @ vt.T).diag()
    assert values.min() > 0.2
    assert values.max() < 1.4
    assert torch.allclose(found, u @ values.diag() @ vt, atol=0.05)


def test_nesterov_on_what_is_no_convolution() -> None:
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

    line = Line()
    optimiser = Muon(line)
    peer = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    decay = DECAY / PEAK[1]
    sgd = torch.optim.SGD([peer], PEAK[1], momentum=MOMENTUM[1], nesterov=True)
    for t in range(5):
        gradient = torch.arange(3, dtype=torch.float64) / 100 + t
        sgd.param_groups[0]["lr"] = PEAK[1] * course(t, 5)
        with torch.no_grad():
            peer.mul_(1 - decay * sgd.param_groups[0]["lr"])
        peer.grad = gradient.clone()
        sgd.step()
        optimiser.step([gradient], torch.tensor([course(t, 5)], dtype=torch.float64))
    assert torch.allclose(line.shift, peer)


# The run


def test_the_schedule_ends_at_zero() -> None:
    rates = [course(t, 50) for t in range(51)]
    assert rates[0] == 1
    assert rates[50] == 0
    assert all(a > b for a, b in pairwise(rates))


def test_the_network_learns_the_digits(digits: data.Dataset) -> None:
    net = train(TINY, digits.train, 0)
    assert isinstance(net, SpeedNet)
    assert not net.training
    assert score(net, digits.test) > 0.9


def test_same_seed_same_numbers(digits: data.Dataset) -> None:
    few = Split(digits.train.pixels[:200], digits.train.labels[:200])
    one, again, other = (train(replace(TINY, epochs=1, hole=6), few, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_recipes_are_validated_on_images_that_are_not_trained_on(monkeypatch: pytest.MonkeyPatch, digits) -> None:
    used, seen = [], []
    monkeypatch.setattr(speedrun, "train", lambda recipe, split, seed: used.append(split))
    monkeypatch.setattr(speedrun, "score", lambda net, split: seen.append(split))
    speedrun.validated(TINY, 0, CPU, "digits", held=200)
    assert torch.equal(torch.cat([used[0].pixels, seen[0].pixels]), digits.train.pixels)
    assert torch.equal(torch.cat([used[0].labels, seen[0].labels]), digits.train.labels)
    assert len(seen[0]) == 200


def test_the_score_is_the_same_for_mirrored_images(digits: data.Dataset) -> None:
    net = build(TINY.widths, digits.train, 0).eval()
    assert score(net, digits.test) == score(net, Split(digits.test.pixels.flip(3), digits.test.labels))


def test_the_clock_counts_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = data.load

    def slow(name, device):
        time.sleep(1.0)
        return real(name, device=device)

    monkeypatch.setattr(speedrun, "train", lambda recipe, split, seed: build(recipe.widths, split, seed).eval())
    quick = timed(TINY, 0, CPU, "digits")
    monkeypatch.setattr(data, "load", slow)
    run = timed(TINY, 0, CPU, "digits")
    assert quick.reading < 1.0 < run.reading < run.seconds
    assert run.accuracy == quick.accuracy


def test_facts_and_their_lines() -> None:
    results, facts = speedrun.speedrun(CPU, (replace(TINY, epochs=2),), runs=2, dataset="digits")
    (goal,) = facts["goals"]
    assert results == []
    assert (goal["goal"], goal["epochs"], len(goal["runs"])) == (0.9, 2, 2)
    goal["runs"] = [
        {"seconds": 1.0, "reading": 0.5, "accuracy": 0.88},
        {"seconds": 2.0, "reading": 0.5, "accuracy": 0.94},
    ]
    surroundings = {"hardware": "H", "torch": "T", "python": "P"}
    kept = {"measured": "2026-01-01", "surroundings": surroundings, "results": results, "facts": facts}
    text = render.page({"CPU": {}, "GPU: H": {"speedrun": kept}})
    assert "**CPU: not measured.**" in text
    assert "**1.50 ± 0.71 s**, of which 0.50 ± 0.00 s" in text
    assert "91.00 ± 4.24 %: the mean reaches the goal; n = 2, of which 1 reach it" in text
    assert "**GPU: H**: torch T, python P; 2026-01-01." in text
    assert "*GPU: H*\n\n- to 90 % in 2 epochs" in text
    assert "in 2 epochs" not in render.page({"CPU": {}, "GPU": {}})
