"""The training loop: one for every rule, one model or a stack of them, one core or a GPU.

A batch is computed in pieces, which a crew of threads shares on the CPU; the sum over pieces is taken in their order.
So a model's parameters depend on the recipe, the data, its members and its seed, and not on how many cores worked on
it, bit for bit. On a GPU the batch is one piece, each model has a stream of its own, and a step of all of them is
captured once and replayed. Models of DP-SGD are stacked: who stands beside one decides how its sums are rounded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.data import Dataset
from labkit.device import derive, generator, training_dtype
from labkit.progress import Tick
from labkit.training.capture import abreast, captured
from labkit.training.dice import Dice
from labkit.training.optimisers import OPTIMISERS, Average
from labkit.training.regimes import Recipe
from labkit.training.stack import Stack
from labkit.training.watch import Best, Network, Progress, look, losses
from labkit.workers import Crew

log = logging.getLogger(__name__)

BLOCK = 64  # steps whose batches are sent to the device together


@dataclass(frozen=True)
class Fit:
    """M trained models.

    Attributes:
        states: their parameters by name.
        histories: what was watched, a list a model.
        losses: of every training image after each epoch that was traced, a list of [N] a model.
    """

    states: list[dict[str, Tensor]]
    histories: list[list[Progress]]
    losses: list[list[Tensor]]


def fit(
    network: Network,
    recipe: Recipe,
    data: Dataset,
    members: Tensor,
    seeds: Sequence[int],
    device: torch.device,
    *,
    crew: Crew,
    piece: int | None = None,
    watch: bool = False,
    validation: Tensor | None = None,
    trace: Sequence[int] = (),
    tick: Tick = lambda images: None,
) -> Fit:
    """Train M models side by side.

    Args:
        network: makes each model from its seed.
        recipe: how to train.
        data: training images (and test images, to be watched).
        members: bool [M, N], who trains on what; no row is empty.
        seeds: M.
        device: where.
        crew: threads that share the pieces of a batch.
        piece: examples of a model computed at once; by default the recipe's, as it must be on a CPU.
        watch: note loss and accuracy on members and test images after every epoch.
        validation: indices of training images that no model trains on. After every epoch accuracy on them is noted,
            clean and attacked, and a recipe that keeps the best state chooses it there.
        trace: epochs after which the loss of every training image is noted, member or not.
        tick: called with the number of images after each batch.

    Raises:
        ValueError: the recipe keeps the best state, and there is nothing to choose it on.
        FloatingPointError: a training that diverged.
    """
    if recipe.keep == "best" and (validation is None or recipe.eps is None):
        raise ValueError(f"{recipe.regime!r} keeps its best state: give validation images, and eps")
    piece = piece or recipe.piece
    # The norms that DP-SGD clips by must hold: no bf16 there.
    dtype = training_dtype(device) if recipe.sample_rate is None else torch.float32
    short = dtype != torch.float32
    networks = [network(derive(seed, "weights")) for seed in seeds]
    stack = Stack(networks, device, dtype if short else None)
    # On a GPU models with small batches take 1.8 to 2.9 times as long stacked as side by side (H200, in bf16); those
    # of DP-SGD are large, and stay stacked.
    private = recipe.sample_rate is not None
    lanes, groups = ([stack], [list(seeds)]) if private else (stack.alone(), [[seed] for seed in seeds])
    streams = [torch.cuda.Stream(device) for _ in lanes] if device.type == "cuda" and len(lanes) > 1 else []
    mine = [row.nonzero()[:, 0] for row in members]
    steps = [recipe.steps(len(indices)) for indices in mine]
    update, course = OPTIMISERS[recipe.optimiser]
    optimiser = update(stack.theta, stack.shapes.values())
    average = Average(stack.theta, recipe.average) if recipe.average else None
    # Each piece has its own: what it draws must not depend on which is computed first.
    whole = Dice(seeds, "batch", device=device)
    each = [
        [Dice(group, "piece", slot, device=device) for group in groups]
        for slot in range(_slots(recipe, members, piece))
    ]

    def add(part: tuple[Tensor, list[Dice]]) -> Tensor:
        rows, dice = part  # [M, b]
        given = zip(lanes, rows.tensor_split(len(lanes)), dice, strict=True)
        found = abreast([partial(of_lane, *its) for its in given], streams)
        return torch.cat(found) if len(found) > 1 else found[0]  # [M, P]

    def of_lane(lane: Stack, chosen: Tensor, dice: Dice) -> Tensor:
        images, labels = data.train.batch(chosen.clamp(min=0).flatten())
        images = images.to(lane.theta.dtype)
        labels = torch.where(chosen.flatten() < 0, -100, labels)
        if recipe.mirror:
            images = torch.where(dice.uniform(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
        with torch.autocast(device.type, dtype) if short else nullcontext():
            return recipe.rule.add(lane, images, labels, dice)

    def step(batch: Tensor, rate: Tensor) -> None:
        """One step of all models: indices [M, B], -1 where there is none, and learning rates [M, 1]."""
        pieces = batch.tensor_split(max(1, math.ceil(batch.shape[1] / piece)), dim=1)
        total = sum(crew.map(add, list(zip(pieces, each, strict=False))))
        counts = (batch >= 0).sum(1, keepdim=True)
        optimiser.step(recipe.rule.finish(total, counts, whole), rate)
        stack.renew()
        if average:
            average.step(rate)

    def states() -> list[dict[str, Tensor]]:
        return stack.states(average.value() if average else None)

    drawn_from = [g for dice in (whole, *(die for slot in each for die in slot)) for g in dice.generators]
    run = captured(step, drawn_from) if device.type == "cuda" else step
    orders = [generator(seed, "batches") for seed in seeds]
    plans = [_batches(recipe, *of_model) for of_model in zip(mine, steps, orders, strict=True)]
    ends = {round(max(steps) * epoch / recipe.epochs): epoch for epoch in range(1, recipe.epochs + 1)}
    watch = watch or validation is not None
    histories: list[list[Progress]] = [[] for _ in seeds]
    traced: list[list[Tensor]] = [[] for _ in seeds]
    best = Best(len(seeds))
    done = 0
    together = zip_longest(*plans, fillvalue=torch.empty(0, dtype=torch.long))
    while block := list(islice(together, BLOCK)):
        batches = _padded(recipe, block).to(device)  # [S, M, B]
        now = range(done, done + len(block))
        courses = [[course(t, n) if t < n else 0.0 for n in steps] for t in now]
        rates = recipe.learning_rate * torch.tensor(courses).to(stack.theta)[..., None]  # [S, M, 1]
        ages = torch.tensor([[min(1.0, t / n) for n in steps] for t in now]).to(stack.theta)[..., None]  # [S, M, 1]
        for batch, rate, age, drawn in zip(batches, rates, ages, block, strict=True):
            stack.age.copy_(age)
            run(batch, rate)
            done += 1
            tick(sum(map(len, drawn)))
            epoch = ends.get(done)
            if epoch is None or not (watch or epoch in trace):
                continue
            for m, state in enumerate(states()):
                if epoch in trace:
                    traced[m].append(losses(network, state, data.train).cpu())
                if watch:
                    seen = look(network, state, data, mine[m], epoch, validation=validation, eps=recipe.eps)
                    histories[m].append(seen)
                    if recipe.keep == "best":
                        best.offer(m, state, seen.validation_robust)
    if not stack.theta.isfinite().all():
        raise FloatingPointError(
            f"training {recipe.regime!r} diverged at learning rate {recipe.learning_rate}; lower it"
        )
    return Fit(best.states if recipe.keep == "best" else states(), histories, traced)


def _slots(recipe: Recipe, members: Tensor, piece: int) -> int:
    """Pieces that a batch may have at most, filled up as :func:`_padded` does."""
    if recipe.sample_rate is None:
        return math.ceil(recipe.batch_size / piece)
    return math.ceil(recipe.piece * math.ceil(int(members.sum(1).max()) / recipe.piece) / piece)


def _batches(recipe: Recipe, mine: Tensor, steps: int, order: torch.Generator) -> Iterator[Tensor]:
    """Indices of one model's examples, a tensor a step; drawn on the CPU, so that they do not depend on the device."""
    n = len(mine)
    if recipe.sample_rate is not None:
        for _ in range(steps):
            yield mine[torch.rand(n, generator=order) < recipe.sample_rate]
        return
    for _ in range(recipe.epochs):
        shuffled = mine[torch.randperm(n, generator=order)]
        # The last, smaller batch is left out: its images come elsewhere in the next epoch's order.
        yield from shuffled[: max(1, n // recipe.batch_size) * recipe.batch_size].split(recipe.batch_size)


def _padded(recipe: Recipe, block: list[tuple[Tensor, ...]]) -> Tensor:
    """Batches of S steps and M models as one [S, M, B], filled up with -1.

    Poisson batches are filled up to whole pieces: a kernel is prepared anew for every size it meets.
    """
    width = max(len(batch) for step in block for batch in step)
    if recipe.sample_rate is not None:
        width = recipe.piece * max(1, math.ceil(width / recipe.piece))
    rows = [F.pad(batch, (0, width - len(batch)), value=-1) for step in block for batch in step]
    return torch.stack(rows).view(len(block), -1, width)
