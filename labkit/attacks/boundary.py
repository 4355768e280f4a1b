"""FAB: the nearest image that is mistaken for something else, and so how far the decision boundary is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from labkit.attacks.ascent import slope
from labkit.attacks.balls import Linf
from labkit.attacks.hyperplane import onto_hyperplane
from labkit.attacks.losses import targeted_margin
from labkit.attacks.points import Points, in_pieces, strongest, waves, where
from labkit.attacks.promises import check, check_counts, correct, eval_mode, hits, rivals
from labkit.workers import spread

ALPHA_MAX = 0.1  # most weight of the projection from the image itself
ETA = 1.05  # how far beyond the hyperplane
BETA = 0.9  # how much of the way out is kept when a point has crossed
HALVINGS = 10  # of the way from the image to the nearest adversarial one, in the final search


def fab_targeted(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, *, steps: int = 100, targets: int = 9
) -> Tensor:
    """Fast adaptive boundary attack towards each of several classes; l-infinity, no randomness.

    Croce and Hein (2020b), algorithm 1, targeted as in Croce and Hein (2020), with a final search by bisection. It
    minimises the distance; a point is broken when that is ``eps`` at most, and spared the targets that follow. Where
    several targets break it at once, its image is the nearest of theirs.

    Args:
        model: images in [0, 1] to logits [N, C], C at least 2.
        images: [N, ...] in [0, 1], floating point.
        labels: [N] int64, the true classes.
        eps: l-infinity radius in [0, 1].
        steps: projections a target, at least 1.
        targets: classes tried, those nearest to winning on the clean image first; C - 1 where there are fewer.

    Returns:
        Images inside ball and box, shaped as ``images``: where the nearest adversarial image lies beyond the ball, its
        projection. A point that is misclassified anyway keeps its image.

    Raises:
        ValueError: images outside [0, 1] or not finite, labels that do not fit, a setting out of range.
    """
    check(images, labels, eps)
    nearest, _ = _nearest(model, images, labels, steps, targets, enough=eps)
    return Linf(images, eps).project(nearest)


def boundary_distance(
    model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = 100, targets: int = 9
) -> Tensor:
    """l-infinity distance from each image to the nearest one found that is misclassified: [N], an upper bound.

    0 where the image is misclassified itself, inf where nothing was found.

    Args, Raises: as for :func:`fab_targeted`.
    """
    check(images, labels, 0)
    return _nearest(model, images, labels, steps, targets, enough=-1.0)[1]


def _nearest(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int, targets: int, enough: float
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial image found, and its distance [N]; a point nearer than ``enough`` is left alone."""
    check_counts(steps=steps, targets=targets)
    images = images.detach()
    nearest, right = images.clone(), correct(model, images, labels)
    distance = torch.where(right, torch.inf, 0.0).to(images.dtype)
    wrong = rivals(model, images, labels, targets)  # [N, k]
    stands = right.clone()

    def walk(rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return _walk(model, images[rows], labels[rows], target, steps, enough)

    with eval_mode(model):
        for wave, far in waves(wrong.shape[1], stands):
            target = wrong[far, wave.start : wave.stop].T.flatten()
            beyond, length = in_pieces(walk, far.repeat(len(wave)), target)
            closeness, beyond = strongest(len(wave), -length, beyond)
            closer = -closeness < distance[far]
            nearest[far[closer]], distance[far[closer]] = beyond[closer], -closeness[closer]
            stands[far] = distance[far] > enough
        found = (right & (distance > enough) & distance.isfinite()).nonzero()[:, 0]

        def search(part: slice) -> None:
            rows = found[part]
            nearest[rows], distance[rows] = _search(model, images[rows], labels[rows], nearest[rows])

        spread(search, len(found), images.device)
    return nearest, distance


@dataclass
class _Walk(Points):
    """Where the points of a piece are; ``stands``: no adversarial image was found that is near enough."""

    images: Tensor
    labels: Tensor
    targets: Tensor
    x: Tensor
    nearest: Tensor  # the best adversarial image so far
    distance: Tensor  # [n], its own


def _walk(
    model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, steps: int, enough: float
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial image met on the way to ``targets`` [n], and how far it is, [n]: inf where none was."""
    nearest, distance = images.clone(), images.new_full(labels.shape, torch.inf)
    of = _Walk(
        row=torch.arange(len(images), device=images.device),
        stands=torch.ones_like(labels, dtype=torch.bool),
        images=images,
        labels=labels,
        targets=targets,
        x=images,
        nearest=images,
        distance=distance,
    )
    for _ in range(steps):
        of = of.standing()
        if of is None:
            break
        loss = partial(targeted_margin, labels=of.labels, targets=of.targets)
        _, value, gradient = slope(model, of.x, loss)
        x = _project(of.x, of.images, value.to(of.x.dtype), gradient)  # a model may compute in another
        with torch.no_grad():
            crossed = ~hits(model(x), of.labels)
        length = Linf.length(x - of.images)
        closer = crossed & (length < of.distance) & of.stands  # one that is done stays as it is, whoever is beside it
        of.distance = torch.where(closer, length, of.distance)
        of.nearest = where(closer, x, of.nearest)
        of.x = where(crossed, of.images + BETA * (x - of.images), x)
        of.stands = of.distance > enough
        nearest[of.row], distance[of.row] = of.nearest, of.distance
    return nearest, distance


def _project(x: Tensor, images: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The next iterate: beyond the linearised boundary, drawn towards the image (equation 9 of the paper)."""
    flat, origin, normal = x.flatten(1), images.flatten(1), gradient.flatten(1)
    offset = value + (normal * (origin - flat)).sum(1)  # what the linearisation is at the image
    both = onto_hyperplane(torch.cat([flat, origin]), torch.cat([normal, normal]), torch.cat([value, offset]))
    near, far = both.chunk(2)  # [n, D] each: from the iterate, from the image
    a, b = near.abs().amax(1, keepdim=True), far.abs().amax(1, keepdim=True)
    alpha = (a / (a + b).clamp(min=1e-8)).clamp(max=ALPHA_MAX)
    moved = (1 - alpha) * (flat + ETA * near) + alpha * (origin + ETA * far)
    return moved.clamp(0, 1).view_as(x)


def _search(model: nn.Module, images: Tensor, labels: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """Bisection between each image and one beyond the boundary: the nearest found, and its distance."""
    within = images
    for _ in range(HALVINGS):
        middle = (within + beyond) / 2
        with torch.no_grad():
            crossed = ~hits(model(middle), labels)
        within, beyond = where(crossed, within, middle), where(crossed, middle, beyond)
    return beyond, Linf.length(beyond - images)
