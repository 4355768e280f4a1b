"""Training: an epoch, the time to an accuracy, and many shadow models, against the plain loop."""

from __future__ import annotations

import tempfile
import time
from functools import partial

import torch

from benchmarks import plain
from benchmarks.protocol import Result, against, in_turn, seconds
from labkit import data
from labkit.membership import halves
from labkit.networks import build
from labkit.store import Store
from labkit.training import LARGE, Mean, Recipe, train


def labkit_train(recipe: Recipe, images: data.Dataset, members: torch.Tensor, device: torch.device, seed: int = 0):
    """labkit's own training, into a store that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        return train(recipe, images, members, seed=seed, store=Store(folder), device=device)


def everyone(images: data.Dataset, models: int = 1) -> torch.Tensor:
    return torch.ones(models, len(images.train), dtype=torch.bool)


def epoch(device: torch.device, size: int = 12_000, repeats: int = 5) -> tuple[list[Result], dict]:
    """One training epoch of the same network, by one model, in batches of 128 and of 256.

    The plain loop is taken twice: with what torchvision does for each image, and with a data set of ready tensors. It
    trains in float32, as such loops are written; labkit in bf16 where the processor multiplies that natively. So it is
    in `accuracy`, `shadows` and `report`.
    """
    images = data.load(train_size=size, test_size=500, device=device)
    items, ready = plain.Images(images.train), plain.tensors(images.train)
    results, facts = [], {}
    for batch in (128, 256):
        recipe = Recipe("standard", Mean(), 1, batch, 3e-3, "adamw", piece=batch // 2)
        theirs = partial(plain.epoch, device=device, batch_size=batch)
        taken = in_turn(
            {
                "labkit": partial(labkit_train, recipe, images, everyone(images), device),
                "items": lambda theirs=theirs: theirs(build(0).to(device), items),
                "ready": lambda theirs=theirs: theirs(build(0).to(device), ready),
            },
            device,
            repeats,
        )
        note = f"labkit's network, {size:,} images, batches of {batch}, one model"
        work = "one training epoch, same network" + (f", batches of {batch}" if batch > 128 else "")
        results += [
            against(work, "plain PyTorch loop", taken["labkit"], taken["items"], note),
            against(work, "plain loop on ready tensors", taken["labkit"], taken["ready"], note),
        ]
        facts[f"images_per_second, batches of {batch}"] = size / sorted(taken["labkit"])[len(taken["labkit"]) // 2]
    return results, facts


def accuracy(
    device: torch.device, size: int | None = None, goal: float = 0.90, epochs: int = 2, repeats: int = 2
) -> tuple[list[Result], dict]:
    """The time to the same test accuracy, each with its own network.

    labkit's schedule has a fixed length, after which the goal must stand; the plain loop trains the predecessor's
    network with Adam until an epoch ends at the goal or above. Evaluating is not timed. Epochs, batch size and
    learning rate of the schedule were chosen on held-out training images.
    """
    images = data.load(train_size=size, device=device)
    recipe = Recipe("standard", Mean(), epochs, 256, 1e-2, piece=LARGE)
    items = plain.Images(images.train)
    ours, theirs, reached = [], [], {"labkit": [], "plain": []}
    for turn in range(repeats):
        made: list = []
        ours.append(seconds(lambda: made.append(labkit_train(recipe, images, everyone(images), device, turn)), device))  # noqa: B023
        reached["labkit"].append(plain.accuracy(made[0].model(0), images.test))
        if reached["labkit"][-1] < goal:
            raise RuntimeError(f"{epochs} epochs reach {reached['labkit'][-1]:.4f}, not {goal}: give more epochs")
        torch.manual_seed(turn)
        model = plain.predecessor().to(device)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        elapsed, right = 0.0, 0.0
        while right < goal and elapsed < 1800:
            elapsed += seconds(lambda: plain.epoch(model, items, device, optimiser=optimiser), device)  # noqa: B023
            right = plain.accuracy(model, images.test)
        theirs.append(elapsed)
        reached["plain"].append(right)
    note = (
        f"{len(images.train):,} images; labkit {epochs} epochs, batches of {recipe.batch_size}: "
        + ", ".join(f"{100 * a:.2f} %" for a in reached["labkit"])
        + "; the plain loop: "
        + ", ".join(f"{100 * a:.2f} %" for a in reached["plain"])
    )
    work = f"time to {100 * goal:.0f} % test accuracy, own network"
    return [against(work, "predecessor's CNN, plain loop", ours, theirs, note)], reached


def shadows(
    device: torch.device, size: int = 12_000, models: int = 64, epochs: int = 2, repeats: int = 3
) -> tuple[list[Result], dict]:
    """Many shadow models on random halves.

    The plain loop trains one of them a turn, and its time is multiplied by their number: it takes them one after
    another.
    """
    images = data.load(train_size=size, test_size=500, device=device)
    members = halves(models, size, torch.Generator().manual_seed(0))
    recipe = Recipe("standard", Mean(), epochs, 128, 3e-3, "adamw", piece=LARGE)
    half = data.Split(images.train.pixels[: size // 2], images.train.labels[: size // 2])
    items = plain.Images(half)

    def one_of_theirs() -> None:
        model = plain.predecessor().to(device)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(epochs):
            plain.epoch(model, items, device, optimiser=optimiser)

    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: labkit_train(recipe, images, members, device), device))
        theirs.append(seconds(one_of_theirs, device))
    note = f"{models} models, {epochs} epochs on about {size // 2:,} images each; the peer's one model times {models}"
    work = f"{models} shadow models, own network"
    return [against(work, "predecessor's CNN, plain loop", ours, theirs, note, scale=models)], {}


def scaling(device: torch.device, unit: int = 3_000) -> tuple[list[Result], dict]:
    """How the time grows with models, images and epochs: each from one unit to eight, the others held."""
    grown: dict[str, list[tuple[int, float]]] = {"models": [], "images": [], "epochs": []}
    for _ in range(3):
        for times in (1, 2, 4, 8):
            for what, points in grown.items():
                n = unit * (times if what == "images" else 1)
                images = data.load(train_size=n, test_size=500, device=device)
                members = everyone(images, times if what == "models" else 2)
                recipe = Recipe("standard", Mean(), 2 * (times if what == "epochs" else 1), 128, 3e-3, "adamw")
                start = time.perf_counter()
                labkit_train(recipe, images, members, device)
                points.append((int(members.sum()) * recipe.epochs, time.perf_counter() - start))
    return [], {"grown": grown}
