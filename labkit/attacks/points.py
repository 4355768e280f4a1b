"""Points that an attack still works on: they leave a piece as they fall; few of them have several runs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from labkit.workers import chunk, spread

CORES = 4  # how many of them a wave of runs should fill; waves must not depend on how many there are
ROUND = 8  # a batch shrinks to multiples of this: a kernel is prepared anew for every size that it meets

Some = TypeVar("Some", bound="Points")


@dataclass
class Points:
    """Tensors (and balls) with a row a point.

    Attributes:
        row: int64 [n], where in the piece a point's result belongs.
        stands: bool [n]. A point that has fallen may stay for a while, so that the batch keeps a round size.
    """

    row: Tensor
    stands: Tensor

    def standing(self: Some) -> Some | None:
        """The points to go on with; None when all have fallen."""
        left = int(self.stands.sum())
        if not left:
            return None
        size = ROUND * math.ceil(left / ROUND)
        if size >= len(self.stands):
            return self
        rows = self.stands.int().argsort(descending=True, stable=True)[:size]
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Row by row: of ``yes`` where ``chosen`` [n] says so, else of ``no``; both [n, ...]."""
    return torch.where(chosen.view(-1, *[1] * (no.ndim - 1)), yes, no)


def waves(runs: int, stands: Tensor) -> Iterator[tuple[range, Tensor]]:
    """Which of ``runs`` runs (restarts, targets) to do at once, and the points that still stand: rows of ``stands``.

    Runs of many points come one by one; those of few share a batch, which would leave the hardware idle otherwise. A
    point that falls is spared the waves that follow.

    Args:
        runs: how many there are, in order.
        stands: bool [N], read anew before each wave.
    """
    room = chunk(stands.device) * (CORES if stands.device.type == "cpu" else 1)
    done = 0
    while done < runs and len(rows := stands.nonzero()[:, 0]):
        wave = range(done, min(runs, done + max(1, room // len(rows))))
        yield wave, rows
        done = wave.stop


def in_pieces(attempt: Callable[..., tuple[Tensor, ...]], rows: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
    """``attempt(rows, *more)``, which have an entry a run and point, on as many at once as suits the hardware.

    Args:
        attempt: of rows [n], the points' places, and what belongs to them [n, ...], to results [n, ...].
        rows: at least one.
    """

    def of_part(part: slice) -> tuple[Tensor, ...]:
        return attempt(rows[part], *(each[part] for each in more))

    parts = spread(of_part, len(rows), rows.device)
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def strongest(runs: int, value: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
    """Of each point's ``runs`` values the highest, the first of equals, and what else belongs to that run.

    Args:
        runs: how many runs a point had.
        value: [runs * n], run by run; NaN is lower than all.
        found: [runs * n, ...] each.

    Returns:
        [n] and [n, ...] each.
    """
    value = value.masked_fill(value.isnan(), -math.inf)
    best = value.view(runs, -1).argmax(0)  # [n]
    rows = best * len(best) + torch.arange(len(best), device=best.device)
    return tuple(part[rows] for part in (value, *found))
