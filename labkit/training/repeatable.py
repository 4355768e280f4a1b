"""What it costs to get the same bits twice on a GPU: models one by one, with kernels that sum in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from labkit.data import Dataset
from labkit.networks import build
from labkit.training.loop import fit
from labkit.training.regimes import Recipe
from labkit.training.schedule import WHOLE
from labkit.workers import Crew


def cost_of_repeating(recipe: Recipe, data: Dataset, device: torch.device, models: int) -> float:
    """Seconds of an epoch of so many models one by one and deterministically, over side by side and freely.

    Each way is timed on its second run; kernels are chosen and captured in the first.
    """
    members = torch.ones(models, len(data.train), dtype=torch.bool)
    short = replace(recipe, epochs=1)

    def seconds(at_once: int, deterministic: bool) -> float:
        with _determinism(deterministic), Crew(1) as crew:
            for _ in range(2):
                start = time.perf_counter()
                for index in range(0, models, at_once):
                    seeds = range(index, min(index + at_once, models))
                    fit(build, short, data, members[list(seeds)], seeds, device, crew=crew, piece=WHOLE)
                elapsed = time.perf_counter() - start  # fit has read its result back
        return elapsed

    return seconds(1, True) / seconds(models, False)


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
