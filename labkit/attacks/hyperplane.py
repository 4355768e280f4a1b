"""The nearest point of a hyperplane, in the l-infinity norm and inside the box [0, 1]: exactly, for many points."""

from __future__ import annotations

import torch
from torch import Tensor

TURNS = 64  # far more than the search needs: it ends by itself


def onto_hyperplane(x: Tensor, normal: Tensor, value: Tensor) -> Tensor:
    """The smallest change d, in the largest pixel, with value + <normal, d> = 0 and x + d inside [0, 1].

    Croce and Hein (2020b), section 2.2 and equation 6: every pixel moves by the same amount, against the sign of
    value * normal, until it meets the box. How far they get together, phi(t) = sum_i |normal_i| min(t, room_i), is
    concave and piecewise linear in t; Newton's method from t = 0 climbs along it from the left, passes over at least
    one corner a turn and ends on the exact solution, without sorting the corners.

    Args:
        x: [N, D] in [0, 1].
        normal: [N, D].
        value: [N], what the linear function is at x.

    Returns:
        [N, D]. Where the hyperplane does not meet the box, the change that comes nearest to it.
    """
    way = -value.sign()[:, None] * normal.sign()  # [N, D], where each pixel goes
    room = torch.where(way > 0, 1 - x, x) * way.abs()  # [N, D]
    weight, need = normal.abs(), value.abs()
    t = torch.zeros_like(value)  # [N]
    for _ in range(TURNS):
        free = room > t[:, None]
        pull = (weight * free).sum(1)  # slope of phi
        reached = (weight * torch.where(free, 0, room)).sum(1)  # what pixels at the box have given
        onward = torch.where(pull > 0, (need - reached) / pull, t)
        if not (onward > t).any():
            break
        t = torch.maximum(t, onward)
    return way * torch.minimum(room, t[:, None])
