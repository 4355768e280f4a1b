"""Many models as one: the same numbers whatever stands beside, in whatever pieces, after whatever went wrong."""

import gc
import logging
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labkit.data import Dataset, Split
from labkit.networks import build
from labkit.store import Store
from labkit.training import Adversarial, Blend, Interval, Mean, Private, Recipe, Trades, milestones, schedule, train
from labkit.training import loop as loop_module
from labkit.training.capture import abreast, captured
from labkit.training.dice import Dice
from labkit.training.loop import fit
from labkit.training.optimisers import OPTIMISERS, SGD, AdamW, Average, Muon, orthogonal
from labkit.training.repeatable import cost_of_repeating
from labkit.training.stack import ALIGNED, Stack
from labkit.workers import LEAST, PIECE, Crew, Stopped, pieces, share, spread

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # named, and not needed
OUT_OF_MEMORY = torch.OutOfMemoryError


@pytest.fixture
def plenty(monkeypatch):
    """Free memory of a GPU that is not there."""
    monkeypatch.setattr("labkit.workers.free_memory", lambda device: 80 << 30)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(n=150, seed=0):
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=gen(seed), dtype=torch.uint8)
    split = Split(pixels, torch.arange(n) % 10)
    return Dataset("toy", "toy", split, split, tuple("0123456789"), f"toy-{n}-{seed}")


RECIPES = {
    "standard": Recipe("standard", Mean(), 2, 16, 3e-3),
    "pgd": Recipe("pgd", Adversarial(Mean(), 0.1, 2, 1.0), 1, 16, 3e-3, mirror=True),
    "dp": Recipe("dp", Private(0.5, 0.3, 40), 2, 40, 0.1, optimiser="sgd", sample_rate=0.4),
    "both": Recipe(
        "both", Adversarial(Private(0.5, 0.3, 40), 0.1, 2), 1, 40, 0.1, optimiser="sgd", sample_rate=0.4, mirror=True
    ),
    "trades": Recipe("trades", Trades(6.0, 0.1, 2), 1, 16, 3e-3, average=0.9),
    "mtl_ibp": Recipe("mtl_ibp", Blend(Adversarial(Mean(), 0.1, 2), Interval(0.1, kappa=0), 0.1), 1, 16, 3e-3),
    "ibp": Recipe("ibp", Interval(0.1, 0.5, (0.2, 0.8)), 2, 16, 3e-3, average=0.5),
}


def fitted(recipe, members, seeds, threads=1, data=None, network=build, **more):
    with Crew(threads) as crew:
        return fit(network, recipe, data or toy(), members, seeds, CPU, crew=crew, **more).states


def precise(seed):
    return build(seed).double()


@pytest.fixture
def in_float64(monkeypatch):
    """No bf16: what is left between two ways is rounding."""
    monkeypatch.setattr(loop_module, "training_dtype", lambda device: torch.float32)


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        if tolerance:
            torch.testing.assert_close(a[name], b[name], **tolerance)
        else:
            assert torch.equal(a[name], b[name]), name


# Ensembles equal single models


@pytest.mark.parametrize("regime", RECIPES)
def test_models_side_by_side_equal_models_alone(regime, in_float64):
    members = torch.rand(3, 150, generator=gen(1)) < torch.tensor([[0.5], [0.9], [0.7]])  # not all as many steps
    whole = {"piece": schedule.WHOLE, "network": precise}
    together = fitted(RECIPES[regime], members, [5, 6, 7], **whole)
    for index in range(3):
        (alone,) = fitted(RECIPES[regime], members[index : index + 1], [5 + index], **whole)
        same(together[index], alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(together[0]["head.0.weight"], together[1]["head.0.weight"], atol=1e-2)


def test_stacked_layers_equal_their_networks():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(1, 3, (5, 3), stride=(2, 1), padding=(0, 1)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(3 * 12 * 28, 7, bias=False),
    )
    networks = [make().double() for _ in range(4)]
    x = torch.rand(4 * 5, 1, 28, 28, generator=gen()).double().requires_grad_()
    stack = Stack(networks)
    logits = stack(x)
    (slope,) = torch.autograd.grad(logits.square().sum(), x, retain_graph=True)
    gradient = stack.gradient(logits.square().sum())
    for m, network in enumerate(networks):
        part = x[5 * m : 5 * m + 5].detach().requires_grad_()
        alone = network(part)
        torch.testing.assert_close(logits[5 * m : 5 * m + 5], alone)
        expected = torch.autograd.grad(alone.square().sum(), [part, *network.parameters()])
        torch.testing.assert_close(slope[5 * m : 5 * m + 5], expected[0])
        torch.testing.assert_close(gradient[m], torch.cat([g.flatten() for g in expected[1:]]))
    assert [{k: v.shape for k, v in s.items()} for s in stack.states()] == [
        {k: v.shape for k, v in n.state_dict().items()} for n in networks
    ]


@pytest.mark.parametrize("models", [1, 3])
def test_layers_compute_with_a_copy_in_a_shorter_type(models):
    """In one forward pass equal to autocast, which rounds the same weights anew for every one."""
    networks = [build(seed) for seed in range(models)]
    stack, plain = Stack(networks, "cpu", torch.bfloat16), Stack(networks)
    x, y = torch.rand(models * 4, 1, 28, 28, generator=gen()), torch.arange(models * 4) % 10
    for _ in range(2):
        found = []
        for each in (stack, plain):
            with torch.autocast("cpu", torch.bfloat16):
                found.append(each.gradient(F.cross_entropy(each(x), y, reduction="sum")))
        assert found[0].dtype == stack.theta.dtype == torch.float32
        torch.testing.assert_close(*found, rtol=0, atol=0)
        for each in (stack, plain):
            each.theta.mul_(1.1)
            each.renew()


@pytest.mark.parametrize("rule", [Trades(6.0, 0.1, 1), Interval(0.1, kappa=0.3), Blend(Mean(), Interval(0.1), 0.5)])
def test_gradients_through_weights_used_twice_are_those_of_autocast(rule):
    """Their sum is rounded once more, and that is all."""
    networks, found = [build(seed) for seed in range(2)], []
    x, y = torch.rand(2 * 32, 1, 28, 28, generator=gen()), torch.arange(2 * 32) % 10
    for stack in (Stack(networks, "cpu", torch.bfloat16), Stack(networks)):
        stack.age.fill_(1.0)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(rule.add(stack, x, y, Dice([0, 1], "test")))
    assert F.cosine_similarity(*found).min() > 0.999
    torch.testing.assert_close(found[0].norm(dim=1), found[1].norm(dim=1), rtol=0.01, atol=0)


@dataclass(frozen=True)
class Spied(Mean):
    """Asserts that layers compute with theta as it is now, in bf16."""

    def add(self, stack, images, labels, dice):
        for name, part in stack.unflatten(stack.theta).items():
            assert torch.equal(stack.leaves[name], part.bfloat16())
        return super().add(stack, images, labels, dice)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_training_in_bf16_keeps_its_parameters_in_float32(average, monkeypatch):
    monkeypatch.setattr(loop_module, "training_dtype", lambda device: torch.bfloat16)
    members = torch.rand(2, 150, generator=gen(1)) < 0.7
    for state in fitted(replace(RECIPES["standard"], rule=Spied(), average=average), members, [1, 2]):
        assert all(part.dtype == torch.float32 for part in state.values())
        assert any(not torch.equal(part, part.bfloat16().float()) for part in state.values())


def test_every_example_of_a_batch_is_used_whatever_the_pieces():
    recipe = replace(RECIPES["dp"], sample_rate=1.0, piece=128, epochs=1)
    members = torch.arange(150)[None] < 100
    (whole,) = fitted(recipe, members, [1], piece=schedule.WHOLE)
    (small,) = fitted(recipe, members, [1], piece=20)
    same(whole, small, rtol=1e-4, atol=1e-5)


def test_a_crew_within_a_crew_ends_with_it():
    begun, ended = threading.Event(), []

    def item(index):
        if index == 0:
            begun.wait(10)
            raise KeyError("lost")
        inner = Crew(1)
        begun.set()
        try:
            for _ in range(2000):
                inner.check()
                time.sleep(0.01)
        except Stopped:
            ended.append(index)
            raise

    with pytest.raises(KeyError, match="lost"), Crew(2) as crew:
        crew.map(item, [0, 1])
    assert ended == [1]
    Crew(1).check()  # one that is made outside knows of nobody


def test_traced_losses_are_those_of_the_state_and_leave_it_alone(tmp_path):
    data, members = toy(), torch.rand(3, 150, generator=gen(4)) < 0.6
    recipe = replace(RECIPES["standard"], epochs=4)
    call = {"seed": 1, "store": Store(tmp_path), "device": CPU}
    traced = train(recipe, data, members, trace=milestones(4), **call)
    assert traced.trace == (1, 2, 4)
    assert traced.losses.shape == (3, 3, 150)
    logits = traced.logits(data.train)
    expected = F.cross_entropy(logits.transpose(1, 2), data.train.labels.expand(3, -1), reduction="none")
    torch.testing.assert_close(traced.losses[:, -1], expected)
    assert (traced.losses[:, 0] - traced.losses[:, -1]).abs().max() > 1e-3
    untraced = train(recipe, data, members, **call)
    assert untraced.losses.shape == (3, 0, 150)
    for a, b in zip(traced.states, untraced.states, strict=True):
        same(a, b)
    again = train(recipe, data, members, trace=milestones(4), **call)  # from the store
    assert torch.equal(again.losses, traced.losses)
    same(again.states[0], traced.states[0])


@pytest.mark.parametrize(("epochs", "looks"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (30, (1, 2, 4, 8, 16, 30))])
def test_milestones(epochs, looks):
    assert milestones(epochs) == looks


# Results do not depend on who computes them


@pytest.mark.parametrize("regime", RECIPES)
def test_bit_equal_on_any_number_of_cores(regime):
    data, members = toy(400), torch.ones(1, 400, dtype=torch.bool)
    recipe = replace(RECIPES[regime], batch_size=150)  # three pieces
    (one,) = fitted(recipe, members, [3], threads=1, data=data)
    (three,) = fitted(recipe, members, [3], threads=3, data=data)
    same(one, three)


def test_bit_equal_whatever_stands_beside_and_in_two_runs(tmp_path):
    data, members = toy(), torch.rand(5, 150, generator=gen(2)) < 0.6
    call = {"seed": 1, "device": CPU, "watch": True}
    five = train(RECIPES["pgd"], data, members, store=Store(tmp_path / "a"), **call)
    again = train(RECIPES["pgd"], data, members, store=Store(tmp_path / "b"), **call)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        two = train(RECIPES["pgd"], data, members[:2], store=Store(tmp_path / "c"), **call)
    finally:
        torch.set_num_threads(before)
    for index in range(5):
        same(five.states[index], again.states[index])
        assert five.histories[index] == again.histories[index]
    for index in range(2):
        same(five.states[index], two.states[index])
        assert five.histories[index] == two.histories[index]


@pytest.mark.parametrize("regime", ["standard", "dp", "ibp"])  # the others draw by piece
def test_pieces_change_the_rounding_only(regime, in_float64):
    members = torch.ones(1, 150, dtype=torch.bool)
    recipe = replace(RECIPES[regime], batch_size=75)
    (whole,) = fitted(recipe, members, [0], piece=schedule.WHOLE, network=precise)
    (pieces,) = fitted(recipe, members, [0], piece=20, network=precise)
    same(whole, pieces, rtol=1e-9, atol=1e-9)


def test_a_stack_s_models_can_be_had_alone_and_move_with_it():
    stack, x = Stack([build(m) for m in range(3)]), torch.rand(12, 1, 28, 28, generator=gen())
    parts = stack.alone()
    for _ in range(2):
        apart = torch.cat([part(images) for part, images in zip(parts, x.split(4), strict=True)])
        torch.testing.assert_close(apart, stack(x))
        slopes = [part.gradient(part(images).sum()) for part, images in zip(parts, x.split(4), strict=True)]
        torch.testing.assert_close(torch.cat(slopes), stack.gradient(stack(x).sum()))
        stack.theta.add_(0.01)
    stack.age.fill_(0.5)
    assert [part.age.item() for part in parts] == [0.5] * 3
    short = Stack([build(m) for m in range(2)], "cpu", torch.bfloat16)
    part = short.alone()[1]
    short.theta.mul_(2)
    short.renew()
    assert torch.equal(part.leaves["head.0.weight"][0], short.leaves["head.0.weight"][1])
    apart = part.theta.data_ptr() - short.theta.data_ptr()
    assert apart > 0
    assert apart % (ALIGNED * part.theta.element_size()) == 0


@pytest.mark.parametrize("regime", ["standard", "pgd", "trades", "ibp"])
def test_a_model_does_not_depend_on_those_beside_it(regime):
    members = torch.ones(3, 150, dtype=torch.bool)
    with Crew(1):  # a core: several may add up in any order
        together = fitted(RECIPES[regime], members, [0, 1, 2])
        (alone,) = fitted(RECIPES[regime], members[:1], [1])
    same(together[1], alone)


def test_streams_part_from_the_current_one_and_join_it(monkeypatch):
    log = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream):
        log.append(f"on {stream.name}")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("here"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    works = [lambda m=m: torch.tensor(m) for m in range(2)]
    assert abreast(works, [Stream("a"), Stream("b")]) == abreast(works, []) == [0, 1]
    begun = ["a waits for here", "on a", "b waits for here", "on b"]
    assert log == [*begun, "here waits for a", "here waits for b"]

    def fails():
        raise OUT_OF_MEMORY("simulated")

    log.clear()
    with pytest.raises(OUT_OF_MEMORY):
        abreast([works[0], fails, works[1]], [Stream(name) for name in "abc"])
    assert log == [*begun, "here waits for a", "here waits for b"]  # those that began are joined all the same


def test_the_cost_of_repeating_is_a_ratio_and_leaves_no_trace(monkeypatch):
    counted = []
    monkeypatch.setattr("labkit.training.repeatable.fit", lambda *args, **_: counted.append((len(args[4]), flag())))
    flag = torch.are_deterministic_algorithms_enabled
    assert cost_of_repeating(RECIPES["standard"], toy(), CPU, models=3) > 0
    assert counted == [(1, True)] * 6 + [(3, False)] * 2
    assert not flag()


# Memory that runs out


class Greedy:
    """Mean, in a memory that holds so many images: of one piece, of all models that stand side by side."""

    def __init__(self, limit):
        self.limit, self.seen, self.held = limit, [], {}

    def add(self, stack, images, labels, dice):
        model = stack.theta.data_ptr()
        if model in self.held:  # the next piece
            self.held.clear()
        self.held[model] = len(images)
        self.seen.append(sum(self.held.values()))
        if self.seen[-1] > self.limit:
            self.held.clear()
            raise OUT_OF_MEMORY("CUDA out of memory (simulated)")
        return Mean().add(stack, images, labels, dice)

    def finish(self, total, counts, dice):
        self.held.clear()
        return Mean().finish(total, counts, dice)

    def __repr__(self):
        return "Greedy()"


@pytest.mark.parametrize(
    ("limit", "largest", "halvings"),
    [(1000, 96, 0), (48, 48, 1), (16, 16, 2), (5, 4, 4)],  # 6 models of 16 images a batch; 3 models; 1; 4 images of it
)
def test_running_out_of_memory_halves_the_work_and_goes_on(
    limit, largest, halvings, tmp_path, in_float64, monkeypatch, caplog
):
    data, members, rule = toy(), torch.ones(6, 150, dtype=torch.bool), Greedy(limit)
    recipe = Recipe("standard", rule, 1, 16, 3e-3)
    call = {"seed": 0, "device": CPU, "network": precise}
    plain = train(replace(recipe, rule=Mean()), data, members, store=Store(tmp_path / "a"), **call)
    monkeypatch.setattr("labkit.training.ensemble.one_a_core", schedule.side_by_side)  # as on a GPU
    monkeypatch.setattr(schedule, "FIRST_CUT", 16)
    with caplog.at_level(logging.WARNING):
        found = train(recipe, data, members, store=Store(tmp_path / "b"), **call)
    assert max(n for n in rule.seen if n <= limit) == largest
    assert len(caplog.records) == halvings
    assert all("out of memory" in r.message for r in caplog.records)
    for a, b in zip(found.states, plain.states, strict=True):
        same(a, b, rtol=1e-9, atol=1e-9)


def test_an_image_that_does_not_fit_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.training.ensemble.one_a_core", schedule.side_by_side)
    recipe = Recipe("standard", Greedy(0), 1, 16, 3e-3)
    with pytest.raises(OUT_OF_MEMORY):
        train(recipe, toy(), torch.ones(2, 150, dtype=torch.bool), seed=0, store=Store(tmp_path), device=CPU)


def test_models_are_kept_wave_by_wave():
    """So a run that is killed, here in the third wave, goes on there."""
    kept, waves = [], []

    def make(part, crew, piece, tick):
        waves.append(list(part))
        if len(waves) == 3:
            raise KeyboardInterrupt
        return [({}, {"model": index}) for index in part]

    models = range(100, 100 + 3 * schedule.WAVE)
    with pytest.raises(KeyboardInterrupt):
        schedule.side_by_side(make, lambda index, made: kept.append((index, made()[1]["model"])), models, lambda _: 0)
    assert [len(wave) for wave in waves] == [schedule.WAVE] * 3
    assert kept == [(index, index) for index in models[: 2 * schedule.WAVE]]


class Activations:
    """What a failed attempt had allocated."""


@pytest.mark.parametrize("way", ["models", "images"])
def test_a_failed_attempt_is_let_go_of_before_the_next(way, monkeypatch, plenty):
    """By reference counts alone: a cycle would hold it until the collector happens to come by."""
    monkeypatch.setattr("labkit.workers.gc.collect", lambda: 0)
    held, most = [], 2 if way == "models" else 2048

    def attempt(n):
        assert [each() for each in held] == [None] * len(held)
        activations = Activations()
        held.append(weakref.ref(activations))
        if n > most:
            raise OUT_OF_MEMORY("CUDA out of memory (simulated)")
        return n

    def make(part, crew, piece, tick):
        return [({}, {"n": n}) for n in crew.map(lambda _: attempt(len(part)), part)]

    gc.disable()
    try:
        if way == "models":
            schedule.side_by_side(make, lambda index, made: None, range(8), lambda _: None)
        else:
            spread(lambda part: Crew(1).map(lambda _: attempt(part.stop - part.start), [0]), 5000, GPU)
    finally:
        gc.enable()
    assert len(held) > 3


def test_a_step_that_cannot_be_captured_goes_on_as_usual(monkeypatch, caplog):
    """Its crew, in which the attempt failed, too."""
    capturing = []

    @contextmanager
    def recording(graph):
        capturing.append(graph)
        try:
            yield
        finally:
            capturing.clear()

    def add(number):
        if capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return number

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "graph", recording)
    total = torch.zeros(1)
    with Crew(1) as crew:
        run = captured(lambda batch, rate: total.add_(sum(crew.map(add, [1, 2]))), [])
        for _ in range(8):
            run(torch.zeros(1, 2), torch.zeros(1, 1))
    assert total == 8 * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "could not be captured (operation not permitted" in caplog.text


@given(st.integers(0, 3000))
def test_pieces_cover_all_and_keep_the_cores_even(n):
    parts = pieces(n)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    lengths = [part.stop - part.start for part in parts]
    if n:
        assert max(lengths) <= PIECE
        assert max(lengths) - min(lengths) <= 1
    if n >= 4 * LEAST:
        assert len(parts) % 4 == 0
        assert min(lengths) >= LEAST


@pytest.mark.parametrize(("free", "first"), [(80 << 30, 4096), (3 << 30, 2048), (25 << 20, 16), (0, 1)])
def test_chunks_of_images_fit_free_memory(free, first, monkeypatch):
    monkeypatch.setattr("labkit.workers.free_memory", lambda device: free)
    lengths = spread(lambda part: part.stop - part.start, 5000, GPU)
    assert lengths[0] == first
    assert sum(lengths) == 5000


def test_chunks_of_images_are_halved_where_memory_runs_out(caplog, plenty):
    lengths = []

    def work(part):
        lengths.append(part.stop - part.start)
        if lengths[-1] > 1100:
            raise OUT_OF_MEMORY("simulated")
        return torch.arange(part.start, part.stop)

    found = torch.cat(spread(work, 5000, GPU))
    assert torch.equal(found, torch.arange(5000))
    assert lengths == [4096, 2048, 1024, 1024, 1024, 1024, 904]
    assert len(caplog.records) == 2


# Optimisers, against torch's


@pytest.mark.parametrize(("name", "theirs"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimisers_equal_torch(name, theirs):
    ours, course = OPTIMISERS[name]
    theta = torch.randn(2, 7, generator=gen()).double()
    reference = [nn.Parameter(row.clone()) for row in theta]
    mine = ours(theta)
    more = {"momentum": 0.9} if name == "sgd" else {}
    others = [theirs([p], lr=1.0, **more) for p in reference]
    for t in range(25):
        gradient = torch.randn(2, 7, generator=gen(t)).double()
        rates = torch.tensor([[0.1 * course(t, 25)], [0.03 * course(t, 30)]]).double()
        mine.step(gradient, rates)
        for other, parameter, g, rate in zip(others, reference, gradient, rates, strict=True):
            other.param_groups[0]["lr"] = rate.item()
            parameter.grad = g
            other.step()
    torch.testing.assert_close(theta, torch.stack([p.detach() for p in reference]))


KERNELS = [torch.Size(s) for s in [(4, 3, 2, 2), (4,), (20, 2, 3, 3), (20,), (5, 7), (5,)]]  # R < C, and R > C
SIZE = sum(shape.numel() for shape in KERNELS)


@pytest.mark.parametrize(("filters", "inputs"), [(8, 30), (30, 8), (8, 8)])
def test_orthogonal_moves_singular_values_and_keeps_vectors(filters, inputs):
    matrices = torch.randn(3, filters, inputs, generator=gen()).double()
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    moved = values / matrices.flatten(1).norm(dim=1)[:, None]
    for _ in range(3):
        moved = 3.4445 * moved - 4.7750 * moved**3 + 2.0315 * moved**5
    torch.testing.assert_close(orthogonal(matrices), left @ torch.diag_embed(moved) @ right)
    assert 0.5 < moved.median() < 1.25  # and so they are about 1
    assert not orthogonal(torch.zeros(1, filters, inputs)).any()


def test_muon_moves_kernels_along_their_polar_factor_and_the_rest_as_adamw():
    theta = torch.randn(2, SIZE, generator=gen()).double()
    start, plain = theta.clone(), theta.clone()
    mine, other = Muon(theta, KERNELS), AdamW(plain)
    mean = torch.zeros_like(theta)
    at = torch.tensor([0, *[shape.numel() for shape in KERNELS]]).cumsum(0).tolist()
    expected = {index: start[:, at[index] : at[index + 1]].clone() for index in (0, 2)}
    for t in range(5):
        gradient, rate = torch.randn(2, SIZE, generator=gen(t)).double(), torch.tensor([[0.1], [0.02]]).double()
        mine.step(gradient, rate)
        other.step(gradient, rate)
        mean = 0.9 * mean + 0.1 * gradient
        for index, kernel in expected.items():
            filters, inputs = KERNELS[index][0], KERNELS[index][1:].numel()
            for m in range(2):
                momentum = mean[m, at[index] : at[index + 1]].view(filters, inputs)
                along = orthogonal(momentum[None])[0] * 0.2 * max(filters, inputs) ** 0.5
                kernel[m] = kernel[m] * (1 - rate[m] * 0.01) - rate[m] * along.flatten()
    for index in range(len(KERNELS)):
        part = slice(at[index], at[index + 1])
        torch.testing.assert_close(theta[:, part], expected.get(index, plain[:, part]))
    lengths = [mine.direction(gradient)[:, at[index] : at[index + 1]].square().mean(1).sqrt() for index in (0, 2)]
    torch.testing.assert_close(torch.stack(lengths), torch.full((2, 2), 0.2).double(), rtol=0.25, atol=0)


def test_a_model_is_moved_alike_whoever_stands_beside_it():
    theta, gradients = torch.randn(3, SIZE, generator=gen()), torch.randn(4, 3, SIZE, generator=gen(1))
    apart = [row.clone()[None] for row in theta]
    rate = torch.full((3, 1), 0.1)
    together, single = Muon(theta, KERNELS), [Muon(row, KERNELS) for row in apart]
    for gradient in gradients:
        together.step(gradient, rate)
        for m, optimiser in enumerate(single):
            optimiser.step(gradient[m : m + 1], rate[:1])
    assert torch.equal(theta, torch.cat(apart))


@pytest.mark.parametrize("update", [Muon, AdamW, SGD])
def test_at_rate_zero_a_model_stays(update):
    theta = torch.randn(2, SIZE, generator=gen())
    before, optimiser = theta.clone(), update(theta, KERNELS)
    for t in range(3):
        optimiser.step(torch.randn(2, SIZE, generator=gen(t)), torch.tensor([[0.0], [0.1]]))
    assert torch.equal(theta[0], before[0])
    assert not torch.equal(theta[1], before[1])


def test_an_average_is_its_closed_form_and_stops_where_its_model_stops():
    decay, path = 0.8, torch.randn(6, 2, 5, generator=gen()).double()
    theta = torch.zeros(2, 5).double()
    average = Average(theta, decay)
    for t, point in enumerate(path):
        theta.copy_(point)
        average.step(torch.tensor([[0.1], [0.1 if t < 4 else 0.0]]))
    for model, steps in enumerate((6, 4)):
        weights = decay ** torch.arange(steps - 1, -1, -1).double()
        expected = (weights[:, None] * path[:steps, model]).sum(0) / weights.sum()
        torch.testing.assert_close(average.value()[model], expected)


def test_each_model_draws_as_it_would_alone():
    together, alone = Dice([3, 4], "x"), [Dice([seed], "x") for seed in (3, 4)]
    for draw in ("uniform", "normal", "uniform"):
        found = getattr(together, draw)(6, 2)
        assert torch.equal(found, torch.cat([getattr(d, draw)(3, 2) for d in alone]))


# The crew


def test_a_crew_keeps_the_order_and_each_thread_one_core():
    with Crew(3) as crew:
        assert crew.map(lambda i: (i * i, torch.get_num_threads()), range(50)) == [(i * i, 1) for i in range(50)]
    assert torch.get_num_threads() >= 1


def test_threads_of_a_crew_may_have_several_cores_each():
    with Crew(2, each=3) as crew:
        assert crew.map(lambda _: (torch.get_num_threads(), Crew().size), range(4)) == [(3, 3)] * 4


def test_long_work_shares_the_cores():
    with Crew(1, each=5):
        for items, cores in ((1, 5), (2, 2), (7, 1)):
            assert share(lambda _: torch.get_num_threads(), range(items), CPU) == [cores] * items
        assert share(lambda _: torch.get_num_threads(), range(2), torch.device("cuda")) == [5, 5]
        assert share(lambda _: None, [], CPU) == []


def test_threads_of_a_crew_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)
    with Crew(3) as crew:
        crew.map(lambda _: meeting.wait(), range(3))


def test_a_failure_stops_the_others_and_is_the_one_that_is_told():
    started = threading.Event()

    def work(index):
        if index == 1:
            started.wait(20)
            raise ValueError("broken")
        started.set()
        for _ in range(2000):
            crew.check()
            threading.Event().wait(0.01)

    with Crew(2) as crew:
        with pytest.raises(ValueError, match="broken"):
            crew.map(work, range(2))
        assert crew.map(abs, [-1, -2]) == [1, 2]  # all have ended: it can go on
    with pytest.raises(Stopped):
        crew.map(work, range(2))


def test_threads_are_given_back():
    before = torch.get_num_threads()
    spread(lambda part: part, 300, CPU)
    assert torch.get_num_threads() == before
