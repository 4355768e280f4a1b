"""Who trains which models when: a core a model on the CPU, side by side on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.progress import Tick
from labkit.workers import Crew, give_memory_back, halved

Entry = tuple[dict[str, Tensor], dict[str, Any]]  # a trained model's parameters, and facts about its training
# Models by index, trained side by side, in pieces of so many examples or in the recipe's.
Make = Callable[[Sequence[int], Crew, int | None, Tick], list[Entry]]
Keep = Callable[[int, Callable[[], Entry]], None]  # a model by index, made now unless somebody made it meanwhile

WHOLE = 1 << 30  # a piece as large as any batch
WAVE = 16  # models side by side at most: they fill a GPU, and a run that is killed loses no more than them
# What one of them takes in the full profile, rather less (measured, in MiB: 30 to 104 on an H100; a private one, with a
# gradient for each example of its largest batches, up to 380 on a CPU).
MODEL_BYTES = 1 << 29
FIRST_CUT = 16_384  # what a batch is taken for that was too large as a whole


def one_a_core(make: Make, keep: Keep, indices: Sequence[int], tick: Tick) -> None:
    """Models shared out to the cores; where cores are left over, they share the pieces of each model's batches."""
    cores = torch.get_num_threads()
    at_once = max(1, min(len(indices), cores))
    with Crew(at_once) as crew:

        def beat(images: int) -> None:
            crew.check()
            tick(images)

        def one(index: int) -> None:
            with Crew(cores // at_once) as own:
                keep(index, lambda: make([index], own, None, beat)[0])

        crew.map(one, indices)


def side_by_side(make: Make, keep: Keep, indices: Sequence[int], tick: Tick, at_once: int = WAVE) -> None:
    """Models side by side, ``at_once`` of them, each wave kept as it ends; where memory runs out, half as many, then in
    half the piece.

    Raises:
        torch.OutOfMemoryError: one image of one model is too much.
    """
    left, together, piece = list(indices), at_once, WHOLE
    while left:
        part = left[:together]
        try:
            entries = make(part, Crew(1), piece, tick)
        except torch.OutOfMemoryError:
            if len(part) > 1:
                together = halved(len(part), f"out of memory with {len(part)} models side by side")
            else:
                piece = halved(min(piece, FIRST_CUT), "out of memory with pieces of a batch of one model")
        else:
            for index, entry in zip(part, entries, strict=True):
                keep(index, lambda entry=entry: entry)
            left = left[together:]
        give_memory_back()  # also what a wave that ended had recorded
