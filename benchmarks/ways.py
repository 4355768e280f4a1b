"""Ways to train several small models: what the engine's choice rests on. And how near the processor's limit it is."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.protocol import Result, against, in_turn, seconds
from labkit import data
from labkit.device import training_dtype, training_precision
from labkit.networks import build
from labkit.training import LARGE, Adversarial, Mean, Recipe
from labkit.training.capture import captured
from labkit.training.dice import Dice
from labkit.training.loop import fit
from labkit.training.optimisers import AdamW
from labkit.training.repeatable import cost_of_repeating
from labkit.training.rules import Rule
from labkit.training.schedule import WHOLE, one_a_core
from labkit.training.stack import Stack
from labkit.workers import Crew

ON_CPU, ON_GPU = "a core a model (labkit's on a CPU)", "a stream a model (labkit's on a GPU)"


class AllCores(Crew):
    """One piece after another, each on all cores: what a core a piece is compared with."""

    def map(self, function, items):
        return [function(item) for item in items]


def ways(device: torch.device, repeats: int = 3) -> tuple[list[Result], dict]:
    """The same models, the same steps, in bf16 where the device has it; standard and PGD training.

    On a GPU a step is recorded at the beginning, which is most of a turn of few steps: so a GPU has more of them, where
    a note does not say otherwise.
    """
    models, size, batch = (4, 6_000, 128) if device.type == "cpu" else (8, 60_000, 256)
    images = data.load(train_size=size, test_size=500, device=device)
    members = torch.ones(models, size, dtype=torch.bool)
    seeds, results, repeating = list(range(models)), [], {}
    recipes = {
        "standard": Recipe("standard", Mean(), 1, batch, 3e-3, "adamw", piece=LARGE),
        "pgd": Recipe("pgd", Adversarial(Mean(), 0.2, 5), 1, batch, 3e-3, "adamw", piece=LARGE),
    }
    for regime, recipe in recipes.items():

        def alone(crew: Crew, piece: int | None, index: int) -> None:
            fit(build, recipe, images, members[:1], [index], device, crew=crew, piece=piece)  # noqa: B023

        def a_core_a_model() -> None:
            def make(indices, crew, piece, tick):
                alone(crew, piece, indices[0])
                return [({}, {})]

            one_a_core(make, lambda index, made: made(), seeds, lambda n: None)

        def one_after_another() -> None:
            for index in seeds:
                alone(AllCores(1), WHOLE, index)

        def a_stream_a_model() -> None:
            fit(build, recipe, images, members, seeds, device, crew=AllCores(1), piece=WHOLE)  # noqa: B023

        mine = ON_CPU if device.type == "cpu" else ON_GPU
        candidates = {
            mine: a_core_a_model if device.type == "cpu" else a_stream_a_model,
            "one after another, all cores each": one_after_another,
            "stacked as batched products": lambda rule=recipe.rule: _stacked(rule, images, models, device, batch),
        }
        if regime == "standard":
            candidates["torch.func.vmap"] = lambda: _vmapped(images, models, device, batch)
            candidates["torch.compile, one after another"] = lambda: _compiled(images, models, device, batch)
        usable = {}
        for name, way in candidates.items():
            try:
                seconds(way, device)
                usable[name] = way
            except Exception as error:  # a compiler that is not there is no reason to measure nothing
                print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}", flush=True)
        taken = in_turn(usable, device, repeats)
        note = f"{models} models, {size:,} images each, batches of {batch}"
        results += [
            against(f"ways to train, {regime}", name, taken[mine], taken[name], note) for name in usable if name != mine
        ]
        if device.type == "cuda":
            repeating[regime] = cost_of_repeating(recipe, images, device, models)
    return results, {"repeating": repeating, "models": models}


def _stacked(rule: Rule, images: data.Dataset, models: int, device: torch.device, batch: int) -> None:
    """One epoch of all models as one network, whose layers are batched matrix products over models."""
    dtype = training_dtype(device)
    stack = Stack([build(index) for index in range(models)], device, dtype if dtype != torch.float32 else None)
    optimiser, dice = AdamW(stack.theta), Dice(range(models), device=device)

    def step(chosen: torch.Tensor, rate: torch.Tensor) -> None:
        x, y = images.train.batch(chosen.expand(models, -1).flatten())
        with training_precision(device):
            total = rule.add(stack, x, y, dice)
        optimiser.step(rule.finish(total, torch.full_like(stack.age, len(chosen)), dice), rate)
        stack.renew()

    run = captured(step, dice.generators) if device.type == "cuda" else step
    rate = torch.full((models, 1), 3e-3, device=device)
    order = torch.randperm(len(images.train)).to(device)
    for chosen in order[: len(order) // batch * batch].split(batch):
        run(chosen, rate)


def _vmapped(images: data.Dataset, models: int, device: torch.device, batch: int) -> None:
    """One epoch of stacked parameters under vmap, with an optimiser on the stack."""
    networks = [build(index).to(device) for index in range(models)]
    parameters, _ = stack_module_state(networks)
    parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    base = networks[0].to("meta")
    optimiser = torch.optim.AdamW(parameters.values(), 3e-3)

    def loss(own: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(base, own, (x,)), y)

    slopes = vmap(grad(loss))
    for chosen in torch.randperm(len(images.train)).split(batch):
        x, y = images.train.batch(chosen)
        with training_precision(device):
            found = slopes(parameters, x.expand(models, *x.shape), y.expand(models, -1))
        for name, p in parameters.items():
            p.grad = found[name]
        optimiser.step()


def _compiled(images: data.Dataset, models: int, device: torch.device, batch: int) -> None:
    """One epoch of each model, its loss compiled once for all."""
    for index in range(models):
        model = build(index).to(device, memory_format=torch.channels_last)
        forward = torch.compile(model)
        optimiser = torch.optim.AdamW(model.parameters(), 3e-3, fused=True)
        order = torch.randperm(len(images.train))
        for chosen in order[: len(order) // batch * batch].split(batch):
            x, y = images.train.batch(chosen)
            optimiser.zero_grad()
            with training_precision(device):
                nn.functional.cross_entropy(forward(x), y).backward()
            optimiser.step()


def limit(device: torch.device, size: int = 12_000, repeats: int = 3) -> tuple[list[Result], dict]:
    """What training reaches of the matrix product's own rate on the same cores; FLOP of forward and backward."""
    images = data.load(train_size=size, test_size=500, device=device)
    members = torch.ones(4, size, dtype=torch.bool)
    rates = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(2048, 2048, device=device).to(kind) for _ in range(2))
        best = min(seconds(lambda: a @ b, device) for _ in range(12))  # noqa: B023
        rates[str(kind).removeprefix("torch.")] = 2 * 2048**3 / best / 1e9
    model, x = build(0).to(device), torch.rand(64, 1, 28, 28, device=device)
    with FlopCounterMode(display=False) as forward:
        out = model(x)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    flop = (forward.get_total_flops() + backward.get_total_flops()) / 64
    recipe = Recipe("standard", Mean(), 1, 128, 3e-3, "adamw", piece=LARGE)

    def way() -> None:
        def make(indices, crew, piece, tick):
            fit(build, recipe, images, members[:1], list(indices), device, crew=crew, piece=piece)
            return [({}, {})]

        one_a_core(make, lambda index, made: made(), range(4), lambda n: None)

    if device.type != "cpu":

        def way() -> None:
            fit(build, recipe, images, members, range(4), device, crew=Crew(1), piece=WHOLE)

    taken = in_turn({"labkit": way}, device, repeats)["labkit"]
    speed = 4 * size / sorted(taken)[repeats // 2]
    reached = speed * flop / 1e9
    return [], {
        "images_per_second": speed,
        "mflop_per_image": flop / 1e6,
        "gflops": reached,
        "matrix_product_gflops": rates,
        "share": {kind: reached / rate for kind, rate in rates.items()},
    }
