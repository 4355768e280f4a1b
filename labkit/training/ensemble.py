"""Many models trained as one: ``members[M, N]`` says who trains on what, ``logits[M, N, C]`` come out.

A piece of training is a value: recipe, data, members and seed determine it. So each model of an ensemble is
its own entry in the store, and a run that is killed goes on with the next model.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.attacks import CHUNK
from labkit.data import Dataset, Split
from labkit.device import derive, generator, training_precision
from labkit.networks import CompactCNN, build
from labkit.store import Store, code_version
from labkit.training.regimes import Recipe

# Whatever can change the outcome of a training, apart from the recipe, the data and the seed.
CODE = tuple(
    f"labkit.{module}"
    for module in (
        *("attacks", "data", "device", "networks"),
        *("training.clipping", "training.ensemble", "training.regimes", "training.rules"),
    )
)


@dataclass(frozen=True)
class Progress:
    """State after an epoch: loss and accuracy on the members (as trained on) and on the watched images."""

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Ensemble:
    """M trained classifiers.

    Attributes:
        recipe: how they were trained.
        members: bool [M, N]; which training images each one saw.
        states: M dictionaries of parameters, float32.
        histories: M lists of :class:`Progress`, empty where nothing was watched.
        seconds: M training times, as measured when they were trained.
        device: where they run.
    """

    recipe: Recipe
    members: Tensor
    states: list[dict[str, Tensor]]
    histories: list[list[Progress]]
    seconds: list[float]
    device: torch.device

    def __len__(self) -> int:
        return len(self.states)

    def model(self, index: int) -> nn.Module:
        """One of the models, in eval mode, parameters frozen."""
        model = CompactCNN()
        model.load_state_dict(self.states[index])
        return model.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def models(self) -> Iterator[nn.Module]:
        """The models, one after another."""
        return (self.model(index) for index in range(len(self)))

    def logits(self, split: Split) -> Tensor:
        """Logits [M, N, C] of all models on a split, float32, on the CPU."""
        return torch.stack([predict(model, split).cpu() for model in self.models()])


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> Tensor:
    """Logits [N, C] of one model on a split, in float32."""
    indices = torch.arange(len(split), device=split.pixels.device)
    return torch.cat([model(split.batch(part)[0]) for part in indices.split(CHUNK)])


def train(
    recipe: Recipe,
    data: Dataset,
    members: Tensor,
    *,
    seed: int,
    store: Store,
    device: torch.device,
    watch: bool = False,
    tick: Callable[[int], None] = lambda images: None,
) -> Ensemble:
    """Train one model for each row of ``members``, or take it from the store.

    Args:
        recipe: the regime and its settings.
        data: training images (and test images, to be watched: nothing is selected on them).
        members: bool [M, N], N the number of training images; a row needs at least one member.
        seed: with the row's index it determines the model.
        store: where finished models lie.
        device: where to train.
        watch: note loss and accuracy on members and test images after every epoch.
        tick: called with the number of images after each batch.

    Raises:
        ValueError: members of the wrong shape, or a model without members.
        FloatingPointError: a training that diverged.
    """
    if members.ndim != 2 or members.shape[1] != len(data.train) or members.dtype != torch.bool:
        raise ValueError(f"members is {members.dtype} {list(members.shape)}; need bool [models, {len(data.train)}]")
    if not members.any(1).all():
        raise ValueError("a row of members is empty: every model needs at least one training image")
    states, histories, seconds = [], [], []
    for index, row in enumerate(members):
        key = {
            "recipe": repr(recipe),
            "data": data.sha256,
            "members": hashlib.sha256(row.numpy(force=True).tobytes()).hexdigest(),
            "seed": seed,
            "index": index,
            "watch": watch,
            "device": device.type,
            "code": code_version(*CODE),
        }

        def make(row: Tensor = row, index: int = index) -> tuple[dict[str, Tensor], dict]:
            start = time.perf_counter()
            model, history = train_one(recipe, data, row, derive(seed, recipe.regime, index), device, watch, tick)
            facts = {"seconds": time.perf_counter() - start, "history": [asdict(p) for p in history]}
            return dict(model.state_dict()), facts

        state, facts = store.get("classifier", key, make)
        states.append(state)
        histories.append([Progress(**p) for p in facts["history"]])
        seconds.append(facts["seconds"])
    return Ensemble(recipe, members, states, histories, seconds, device)


def train_one(
    recipe: Recipe,
    data: Dataset,
    row: Tensor,
    seed: int,
    device: torch.device,
    watch: bool = False,
    tick: Callable[[int], None] = lambda images: None,
) -> tuple[nn.Module, list[Progress]]:
    """Train one model on the images that ``row`` (bool [N]) marks; see :func:`train`."""
    model = build(derive(seed, "weights")).to(device, memory_format=torch.channels_last)
    mine = row.nonzero()[:, 0].to(device)
    steps = recipe.steps(len(mine))
    optimiser, schedule = _optimiser(recipe, model, steps)
    # Batches are drawn on the CPU, so that they do not depend on the device.
    order = generator(seed, "batches")
    noise = generator(seed, "rule", device=device)
    ends = {round(steps * epoch / recipe.epochs) for epoch in range(1, recipe.epochs + 1)} if watch else set()
    history = []
    for step, batch in enumerate(_batches(recipe, len(mine), steps, order), start=1):
        images, labels = data.train.batch(mine[batch.to(device)])
        if recipe.mirror:
            coin = torch.rand(len(images), 1, 1, 1, generator=noise, device=device)
            images = torch.where(coin < 0.5, images.flip(3), images)
        with training_precision(device) if recipe.sample_rate is None else torch.enable_grad():
            gradient = recipe.rule(model, images, labels, noise)
        for name, parameter in model.named_parameters():
            parameter.grad = gradient[name]
        optimiser.step()
        schedule.step()
        tick(len(batch))
        if step in ends:
            history.append(_look(model, data, mine, len(history) + 1))
    if not all(p.isfinite().all() for p in model.parameters()):
        raise FloatingPointError(
            f"training {recipe.regime!r} diverged at learning rate {recipe.learning_rate}; lower it"
        )
    return model.eval(), history


def _batches(recipe: Recipe, n: int, steps: int, order: torch.Generator) -> Iterator[Tensor]:
    """Indices into the n members, a tensor a step."""
    if recipe.sample_rate is not None:
        for _ in range(steps):
            yield (torch.rand(n, generator=order) < recipe.sample_rate).nonzero()[:, 0]
        return
    for _ in range(recipe.epochs):
        shuffled = torch.randperm(n, generator=order)
        # The last, smaller batch is left out: its images come elsewhere in the next epoch's order.
        yield from shuffled[: max(1, n // recipe.batch_size) * recipe.batch_size].split(recipe.batch_size)


def _optimiser(
    recipe: Recipe, model: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The recipe's optimiser and its learning rate's course over the steps."""
    if recipe.optimiser == "adamw":
        optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate)
        rise = max(1, steps // 5)
        fall = max(1, steps - rise)
        course = lambda t: min((t + 1) / rise, (1 + math.cos(math.pi * max(0, t - rise) / fall)) / 2)  # noqa: E731
    else:
        optimiser = torch.optim.SGD(model.parameters(), recipe.learning_rate, momentum=0.9)
        course = lambda t: min(1.0, 2 * (1 - t / steps))  # noqa: E731
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, course)


def _look(model: nn.Module, data: Dataset, mine: Tensor, epoch: int) -> Progress:
    """Loss and accuracy now; of the members a fixed sample as large as the test set at most."""
    sample = mine[: len(data.test)]
    seen = Split(data.train.pixels[sample], data.train.labels[sample])
    model.eval()
    figures = []
    for split in (seen, data.test):
        logits = predict(model, split)
        figures += [
            F.cross_entropy(logits, split.labels).item(),
            (logits.argmax(1) == split.labels).float().mean().item(),
        ]
    model.train()
    return Progress(epoch, *figures)
