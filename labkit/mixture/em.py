"""Expectation maximisation for many Gaussian mixtures at once.

Dempster, Laird and Rubin (1977); Bishop (2006), section 9.2. ``C`` mixtures are fitted in one batched computation to
points x [C, N, D]; a mask [C, N] of zeros and ones says which rows are real, so classes may differ in size. A mixture
that has converged is left as it is while the others go on: the answer is the one that each would get alone.

Two regularisations, both inside the objective, so that it *never falls* (Bishop, section 9.4):

- *A floor*: covariances range over those not below diag(floor). A component that collapses onto a point or a plane
  stops at the floor (Hathaway 1985), and one that stays clear of it is the unregularised maximum.
- *Shrinkage*: a prior worth ``strength`` points of covariance ``target`` for each component (inverse-Wishart;
  Fraley and Raftery 2007), which pulls covariances that few points determine towards the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.mixture.covariance import Diagonal, Full
from labkit.workers import GPU_CHUNK, Crew

Seen = tuple[Tensor, Tensor]  # statistics of points [C, F, n], and which of them are real, [C, n]

LLOYD_STEPS = 10
ROWS = 512  # points of a mixture at once on the CPU, where their statistics are made anew in every step


class Mixtures(NamedTuple):
    """C mixtures of K components: weights [C, K], means [C, K, D], covariances [C, K, D] or [C, K, D, D]."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def take(self, index: Tensor) -> Mixtures:
        """Some of the C mixtures."""
        return Mixtures(*(part[index] for part in self))


class Fit(NamedTuple):
    """What EM found: ``history`` holds C lists of the objective per point before each step."""

    mixtures: Mixtures
    converged: Tensor  # [C] bool
    history: list[list[float]]


class Prior(NamedTuple):
    """Bounds and beliefs about covariances: floor [D] > 0, strength >= 0 points, target in the form's shape."""

    floor: Tensor
    strength: float
    target: Tensor


def variance_floor(x: Tensor, relative: float) -> Tensor:
    """``relative`` times each feature's variance, x [N, D] -> [D]; a constant feature counts as of variance 1."""
    with Crew(1):
        variance = x.var(0, correction=0)
        constant = variance <= 1e-20 * (x * x).mean(0)  # what rounding leaves of a constant's variance
    return relative * torch.where(constant, 1.0, variance)


def log_joint(x: Tensor, mixtures: Mixtures, form: Diagonal | Full) -> Tensor:
    """log(weight_k N(x | k)): x [C or 1, N, D] -> [C, N, K]."""
    factor = form.factor(mixtures.covariances)
    return form.log_density(x, mixtures.means, factor) + mixtures.weights.log()[:, None]


def expectation(seen: Iterable[Seen], mixtures: Mixtures, form: Diagonal | Full) -> tuple[Tensor, Tensor]:
    """E step: the expected sums of the statistics [C, K, F], and the log-likelihood [C]."""
    natural = form.natural(mixtures.means, form.factor(mixtures.covariances))  # [C, K, F]
    natural[..., 0] += mixtures.weights.log()
    sums, likelihood = torch.zeros_like(natural), natural.new_zeros(len(natural))
    for stats, real in seen:
        joint = natural @ stats  # [C, K, n], log(weight_k N(x | k))
        highest = joint.amax(1, keepdim=True)
        resp = joint.sub_(highest).exp_()
        total = resp.sum(1, keepdim=True)  # [C, 1, n]
        likelihood += ((total.log() + highest)[:, 0] * real).sum(-1)
        resp *= real[:, None] / total
        sums += resp @ stats.mT
    return sums, likelihood


def _seen(x: Tensor, mask: Tensor, form: Diagonal | Full) -> Callable[[Tensor | slice], Iterable[Seen]]:
    """What an E step looks at, of those mixtures that it is for."""

    def anew(active: Tensor | slice) -> Iterator[Seen]:
        stats = None
        for points, real in _blocks(x[active], mask[active]):
            stats = form.statistics(points, stats)  # memory that is used again is in the cache already
            yield stats, real

    if not form.keeps_statistics:
        return anew
    kept = form.statistics(x.mT.contiguous())  # [C, F, N], twice the memory of the points
    return lambda active: [(kept[active], mask[active])]


def _blocks(*by_point: Tensor) -> Iterator[list[Tensor]]:
    """Tensors [C, N] or [C, N, D], cut along N, the points last: what is made of a block stays in the cache."""
    rows = ROWS if by_point[0].device.type == "cpu" else GPU_CHUNK
    for start in range(0, by_point[0].shape[1], rows):
        cuts = [t[:, start : start + rows] for t in by_point]
        yield [cut.mT.contiguous() if cut.ndim == 3 else cut for cut in cuts]


def maximisation(sums: Tensor, old: Mixtures, form: Diagonal | Full, prior: Prior) -> Mixtures:
    """M step from the sums of the statistics [C, K, F]. A component of no point keeps its place, with weight zero."""
    counts = sums[..., 0]  # [C, K]
    empty = counts < 10 * torch.finfo(sums.dtype).eps
    safe = counts.masked_fill(empty, 1.0)
    average = sums / safe[..., None]
    means = torch.where(empty[..., None], old.means, average[..., 1 : 1 + old.means.shape[-1]])  # [C, K, D]
    scatter = form.scatter(average, means)
    wide = (...,) + (None,) * (scatter.ndim - 2)
    mixed = (safe[wide] * scatter + prior.strength * prior.target) / (safe + prior.strength)[wide]
    covariances = torch.where(empty[wide], old.covariances, form.at_least(mixed, prior.floor))
    weights = counts.masked_fill(empty, 0.0)
    return Mixtures(weights / weights.sum(-1, keepdim=True), means, covariances)


def maximise(
    x: Tensor, mask: Tensor, start: Mixtures, form: Diagonal | Full, prior: Prior, *, tol: float, max_iter: int
) -> Fit:
    """EM from ``start`` until the objective per point gains less than ``tol``, for each mixture on its own."""
    found = Mixtures(*(part.clone() for part in start))
    converged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    history: list[list[float]] = [[] for _ in x]
    seen, counts = _seen(x, mask, form), mask.sum(-1)  # [C]
    for _ in range(max_iter):
        active = (~converged).nonzero()[:, 0]
        current = found.take(active)
        sums, objective = expectation(seen(active if len(active) < len(x) else slice(None)), current, form)
        if prior.strength:
            objective += prior.strength * form.log_prior(form.factor(current.covariances), prior.target).sum(-1)
        objective /= counts[active]
        for part, new in zip(found, maximisation(sums, current, form, prior), strict=True):
            part[active] = new
        for c, value in zip(active.tolist(), objective.tolist(), strict=True):
            converged[c] = bool(history[c]) and abs(value - history[c][-1]) < tol
            history[c].append(value)
        if converged.all():
            break
    return Fit(found, converged, history)


def climb(
    x: Tensor, mask: Tensor, start: Mixtures, form: Diagonal | Full, prior: Prior, *, tol: float, max_iter: int
) -> Fit:
    """:func:`maximise` for each of the C mixtures, shared out to the hardware."""

    def climbed(part: slice) -> Fit:
        own = Mixtures(*(of_all[part] for of_all in start))
        return maximise(x[part], mask[part], own, form, prior, tol=tol, max_iter=max_iter)

    fits = _each(climbed, x)
    return Fit(
        _joined([fit.mixtures for fit in fits]),
        torch.cat([fit.converged for fit in fits]),
        [history for fit in fits for history in fit.history],
    )


def fit(
    x: Tensor,
    mask: Tensor,
    components: int,
    form: Diagonal | Full,
    floor: Tensor,
    generators: Sequence[torch.Generator],
    *,
    shrinkage: float = 0.0,
    tol: float = 1e-3,
    max_iter: int = 100,
    n_init: int = 1,
    start: Callable[[Mixtures], Mixtures] = lambda found: found,
) -> Fit:
    """C mixtures of K components by EM from seeded starts, the best of ``n_init`` for each.

    Args:
        x: points [C, N, D], float64. mask: [C, N], 1 for a real row and 0 for padding.
        floor: [D], the least variances (see :func:`variance_floor`).
        generators: one a mixture, so that a class is fitted alike alone and among others.
        shrinkage: points that the prior counts for. Its target is the covariance within components, pooled over all
            components of all mixtures at the (first) start: with K = 1 and many classes, regularised discriminant
            analysis (Friedman 1989).
        start: replaces parts of a start.
    """
    with Crew(1):  # several cores would round the sums differently
        shift = (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]  # [C, 1, D]
        x = (x - shift) * mask[..., None]  # small numbers: the diagonal form subtracts squares
    prior = Prior(floor, 0.0, torch.zeros_like(form.part(floor.diag())))
    best: Fit | None = None

    def started(part: slice) -> Tensor:
        return lloyd(x[part], mask[part], seed_centres(x[part], mask[part], components, generators[part]))

    def begun(part: slice, centres: Tensor, prior: Prior) -> Mixtures:
        return from_centres(x[part], mask[part], centres[part], form, prior)

    for _ in range(n_init):
        centres = torch.cat(_each(started, x))
        begin = _joined(_each(partial(begun, centres=centres, prior=prior), x))
        if shrinkage and not prior.strength:
            counts = begin.weights * mask.sum(1)[:, None]  # [C, K]
            with Crew(1):
                pooled = torch.tensordot(counts, begin.covariances, 2) / counts.sum()
            prior = Prior(floor, shrinkage, pooled)
            begin = _joined(_each(partial(begun, centres=centres, prior=prior), x))
        begin = start(begin._replace(means=begin.means + shift))
        begin = begin._replace(means=begin.means - shift)
        found = climb(x, mask, begin, form, prior, tol=tol, max_iter=max_iter)
        best = found if best is None else _better(best, found)
    return best._replace(mixtures=best.mixtures._replace(means=best.mixtures.means + shift))


def _each(function: Callable[[slice], Any], x: Tensor) -> list[Any]:
    """``function`` of the C mixtures: of all at once on a GPU, of each alone, on a core of its own, on the CPU."""
    if x.device.type != "cpu":
        return [function(slice(None))]
    with Crew(min(len(x), torch.get_num_threads())) as crew:
        return crew.map(function, [slice(c, c + 1) for c in range(len(x))])


def _joined(parts: Sequence[Mixtures]) -> Mixtures:
    return Mixtures(*map(torch.cat, zip(*parts, strict=True)))


def _better(one: Fit, other: Fit) -> Fit:
    """Of each mixture, the fit with the higher objective."""
    wins = [b[-1] > a[-1] for a, b in zip(one.history, other.history, strict=True)]
    index = torch.tensor(wins, device=one.converged.device)
    parts = []
    for a, b in zip(one.mixtures, other.mixtures, strict=True):
        parts.append(torch.where(index[(...,) + (None,) * (a.ndim - 1)], b, a))
    history = [b if won else a for won, a, b in zip(wins, one.history, other.history, strict=True)]
    return Fit(Mixtures(*parts), torch.where(index, other.converged, one.converged), history)


def seed_centres(x: Tensor, mask: Tensor, components: int, generators: Sequence[torch.Generator]) -> Tensor:
    """K rows of each class as centres [C, K, D], by k-means++ (Arthur and Vassilvitskii 2007)."""
    draws = torch.stack([torch.rand(components, generator=g, dtype=x.dtype) for g in generators]).to(x.device)
    batch = torch.arange(len(x), device=x.device)
    centres = x.new_empty(len(x), components, x.shape[-1])
    nearest = torch.full_like(mask, torch.inf)  # [C, N] squared distance to the nearest centre
    for k in range(components):
        chance = mask * nearest if k else mask
        chance = torch.where(chance.sum(-1, keepdim=True) > 0, chance, mask)  # all points lie on centres
        ladder = chance.cumsum(-1)
        mark = draws[:, k, None] * ladder[:, -1:] * (1 - 1e-12)
        centres[:, k] = x[batch, torch.searchsorted(ladder, mark, right=True)[:, 0]]
        nearest = torch.minimum(nearest, (x - centres[:, k, None]).square().sum(-1))
    return centres


def lloyd(x: Tensor, mask: Tensor, centres: Tensor) -> Tensor:
    """A few steps of k-means; a centre that no point is nearest to stays where it is."""
    for _ in range(LLOYD_STEPS):
        resp = _assign(x, mask, centres)
        counts = resp.sum(1)[..., None]  # [C, K, 1]
        centres = torch.where(counts > 0, resp.mT @ x / counts.clamp_min(1), centres)
    return centres


def from_centres(x: Tensor, mask: Tensor, centres: Tensor, form: Diagonal | Full, prior: Prior) -> Mixtures:
    """The mixtures whose components are the points nearest to each centre."""
    alike = centres.new_full(centres.shape[:2], 1 / centres.shape[1])
    narrow = form.part(prior.floor.diag()).expand(*centres.shape[:2], *prior.target.shape)
    nearest = _assign(x, mask, centres)
    sums = sum(resp @ form.statistics(points).mT for points, resp in _blocks(x, nearest))
    return maximisation(sums, Mixtures(alike, centres, narrow), form, prior)


def _assign(x: Tensor, mask: Tensor, centres: Tensor) -> Tensor:
    """Hard responsibilities [C, N, K] of the nearest centres."""
    distance = (centres * centres).sum(-1)[:, None] - 2 * x @ centres.mT  # [C, N, K], less |x|^2
    return torch.zeros_like(distance).scatter_(-1, distance.argmin(-1, keepdim=True), 1.0) * mask[..., None]
