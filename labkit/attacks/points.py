"""Points of a piece that an attack still works on: they leave it as they fall."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

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
