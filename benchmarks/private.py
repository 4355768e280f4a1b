"""DP-SGD: an epoch of the same small tanh network, against each of Opacus' ways to per-example gradients."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import plain
from benchmarks.protocol import Result, against, in_turn
from labkit import data
from labkit.training import Private, Recipe
from labkit.training.loop import fit
from labkit.training.schedule import WHOLE
from labkit.workers import Crew

MODES = ("hooks", "ew", "functorch", "ghost")


def tanh_cnn() -> nn.Module:
    """The network of Papernot et al. (2021) and Tramer and Boneh (2021): 26 K parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return tanh_cnn()


def dpsgd(device: torch.device, size: int = 12_000, batch: int = 512, repeats: int = 5) -> tuple[list[Result], dict]:
    """A DP-SGD epoch: Poisson sampling, clip 1, noise multiplier 1, SGD with momentum, float32 on both sides."""
    images = data.load(train_size=size, test_size=500, device=device)
    ready = plain.tensors(images.train)
    recipe = Recipe("dp", Private(1.0, 1.0, batch), 1, batch, 0.5, optimiser="sgd", sample_rate=batch / size)
    members = torch.ones(1, size, dtype=torch.bool)

    def ours() -> None:
        with Crew() as crew:
            piece = None if device.type == "cpu" else WHOLE
            fit(network, recipe, images, members, [0], device, crew=crew, piece=piece)

    def opacus(mode: str) -> None:
        model, loader = network(0).to(device), DataLoader(ready, batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = PrivacyEngine().make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), 0.5, momentum=0.9),
                data_loader=loader,
                criterion=nn.CrossEntropyLoss(),
                noise_multiplier=1.0,
                max_grad_norm=1.0,
                grad_sample_mode=mode,
            )
            model, optimiser, *criterion, loader = made
            loss_of = criterion[0] if criterion else F.cross_entropy
            for x, y in loader:
                optimiser.zero_grad()
                loss_of(model(x.to(device)), y.to(device)).backward()
                optimiser.step()

    ways = {"labkit": ours}
    for mode in MODES:
        ways[mode] = lambda mode=mode: opacus(mode)
    taken = in_turn(ways, device, repeats)
    parameters = sum(p.numel() for p in tanh_cnn().parameters())
    note = f"{parameters:,} parameters, {size:,} images, expected batch {batch}"
    results = [
        against("a DP-SGD epoch, same network", f"Opacus, {mode}", taken["labkit"], taken[mode], note) for mode in MODES
    ]
    return results, {"images_per_second": size / sorted(taken["labkit"])[repeats // 2]}
