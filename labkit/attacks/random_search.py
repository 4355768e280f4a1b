"""Square attack: random squares at the ball's surface, kept where they help. It asks for logits only, no gradients."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.attacks.balls import Linf
from labkit.attacks.losses import margin
from labkit.attacks.points import Points, where
from labkit.attacks.promises import check, check_counts, correct, eval_mode
from labkit.device import generator
from labkit.workers import chunk, give_memory_back, halved, spread

AHEAD = 16  # queries asked at once of a point, at most: those after one that helps are in vain
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10 000 queries: where the squares' area is halved


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    seed: int = 0,
) -> Tensor:
    """Square attack on the margin loss, l-infinity; a point leaves as soon as it is broken.

    Andriushchenko et al. (2020), algorithms 1 and 2, with the schedule of section 5 stretched to ``queries``. Each
    point has squares of its own.

    Args:
        model: images in [0, 1] to logits [N, C], C at least 2.
        images: [N, channels, height, width] in [0, 1], floating point. Without channels, or flat, they are taken as
            one channel, or as one row.
        labels: [N] int64, the true classes.
        eps: l-infinity radius in [0, 1].
        queries: squares tried a point, at least 1. The model may see more images: of few points several squares are
            tried at once, and those after one that helps are tried again.
        p_init: share of the pixels in the first squares, in (0, 1].
        seed: determines what is drawn for a point, with its place among the images.

    Returns:
        Images shaped as ``images``: the one that broke the point, or the one of highest margin loss. A point that is
        misclassified anyway keeps its image.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels that do not fit, a setting out of range.
    """
    check(images, labels, eps)
    check_counts(queries=queries)
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init = {p_init} must lie in (0, 1]: it is a share of the pixels")
    images = images.detach()
    found = images.clone()
    standing = correct(model, images, labels).nonzero()[:, 0]

    def search(part: slice) -> None:
        rows = standing[part]
        draws = [generator(seed, "square", row) for row in rows.tolist()]
        with torch.no_grad():
            found[rows] = _search(model, images[rows], labels[rows], eps, queries, p_init, draws)

    with eval_mode(model):
        spread(search, len(standing), images.device)
    return found


@dataclass
class _Search(Points):
    """The points of a piece, as pictures [n, c, h, w]; ``low`` and ``high`` are the ends of ball and box.

    A point stands until it is broken or has had all its queries.
    """

    labels: Tensor
    low: Tensor
    high: Tensor
    best: Tensor
    loss: Tensor  # [n], of best
    luck: Tensor  # [n, queries, 2 + c], uniform: where each square is, and of which sign in each channel
    asked: Tensor  # int64 [n], queries so far


def _search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    queries: int,
    p_init: float,
    draws: list[torch.Generator],
) -> Tensor:
    shape = images.shape[1:]
    channels, height, width = (1,) * (3 - len(shape)) + tuple(shape) if len(shape) <= 3 else (1, 1, shape.numel())
    ball = Linf(images.reshape(-1, channels, height, width), eps)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        found = margin(model(x.view(-1, *shape)), labels)
        return found.masked_fill(found.isnan(), math.inf)  # no answer is a wrong one

    def luck(*size: int) -> Tensor:  # [n, *size]
        return torch.stack([torch.rand(size, generator=draw) for draw in draws]).to(images.device)

    stripes = luck(channels, 1, width) < 0.5  # vertical, one pixel wide
    x = torch.where(stripes, ball.high, ball.low)
    value = loss(x, labels)
    of = _Search(
        row=torch.arange(len(images), device=images.device),
        stands=value <= 0,
        labels=labels,
        low=ball.low,
        high=ball.high,
        best=x,
        loss=value,
        luck=luck(queries, 2 + channels),
        asked=torch.zeros_like(labels),
    )
    found = x.clone()
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    sizes = [sides(share(query, queries, p_init), height, width) for query in range(queries)]
    talls, wides = torch.tensor(sizes, device=x.device).T[..., None]  # [queries, 1] each
    most, room = AHEAD, chunk(found.device)
    while (of := of.standing()) is not None:
        # Few points ask several queries ahead, as if none of them helped; the first that does is the last that counts.
        ahead = max(1, min(most, round(room / len(of.row))))
        query = of.asked[:, None] + torch.arange(ahead, device=found.device)  # [n, a]
        left, query = query < queries, query.clamp(max=queries - 1)
        here = of.luck.gather(1, query[..., None].expand(-1, -1, 2 + channels))  # [n, a, 2 + c]
        tall, wide = talls[query], wides[query]  # [n, a, 1]
        top, side = here[..., :1] * (height - tall + 1), here[..., 1:2] * (width - wide + 1)
        top, side = top.long(), side.long()
        inside = ((down >= top) & (down < top + tall))[..., None, :, None]
        inside = inside & ((across >= side) & (across < side + wide))[..., None, None, :]  # [n, a, 1, h, w]
        try:
            # From inside the ball, a change of 2 eps and the projection end at the ball's surface.
            painted = torch.where(here[..., 2:, None, None] < 0.5, of.high[:, None], of.low[:, None])
            x = torch.where(inside, painted, of.best[:, None])  # [n, a, c, h, w]
            value = loss(x.flatten(0, 1), of.labels.repeat_interleave(ahead)).view(-1, ahead)
        except torch.OutOfMemoryError:
            most = halved(ahead, f"out of memory with {ahead} queries of {len(of.row)} points at once")
            painted = x = value = None
        if value is None:
            give_memory_back()
            continue
        better = (value > of.loss[:, None]) & left
        helped, first = better.any(1) & of.stands, better.int().argmax(1)  # [n]
        each = torch.arange(len(x), device=x.device)
        of.best = where(helped, x[each, first], of.best)
        of.loss = torch.where(helped, value[each, first], of.loss)
        of.asked = of.asked + torch.where(helped, first + 1, ahead)
        over = of.stands & ((of.loss > 0) | (of.asked >= queries))
        of.stands = of.stands & ~over
        found[of.row[over]] = of.best[over]
    return found.view(-1, *shape)


def share(query: int, queries: int, p_init: float) -> float:
    """The share of the pixels that the square of this query covers."""
    return p_init / 2 ** bisect_left(HALVINGS, query * 10_000 // queries)


def sides(share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a square with that share of the area; where it does not fit in, of a rectangle."""
    area = share * height * width
    side = max(1, round(math.sqrt(area)))
    if side > height:
        return height, min(width, round(area / height))
    if side > width:
        return min(height, round(area / width)), width
    return side, side
