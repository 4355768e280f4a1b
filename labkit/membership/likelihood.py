"""LiRA: an image's score under models that saw it against its score under models that did not, as Gaussians.

Carlini et al. (2022). Any score of an image will do, of Q queries each (the image, its mirror image, shifts of it):
the log-odds that :func:`lira` takes from logits, or a distance to the decision boundary for an attacker who sees no
more than answers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labkit.membership.rows import comparable, others
from labkit.membership.signals import odds

OWN = 64  # shadows a side from which on an image's own variance is better known than the pool's

# From sums of squares [N, Q, Q] about each image's mean, and their degrees of freedom [N], to [N or 1, Q, Q].
Spread = Callable[[Tensor, Tensor], Tensor]


def shared(squares: Tensor, freedom: Tensor) -> Tensor:
    """One covariance for all images: section VI-B, "fixed variance"."""
    return (squares.sum(0) / freedom.sum().clamp(min=1))[None]


def own(squares: Tensor, freedom: Tensor) -> Tensor:
    """A covariance for each image; needs dozens of shadows a side, and takes :func:`shared` where there is but one."""
    each = squares / freedom.clamp(min=1)[:, None, None]
    return torch.where((freedom > 0)[:, None, None], each, shared(squares, freedom))


def by_number(squares: Tensor, freedom: Tensor) -> Tensor:
    """:func:`own` where every image has ``OWN`` shadows on this side, else :func:`shared`."""
    return own(squares, freedom) if freedom.min() + 1 >= OWN else shared(squares, freedom)


def likelihood_ratio(signal: Tensor, members: Tensor, target: int, *, spread: Spread = by_number) -> Tensor:
    """The online attack on any score: algorithm 1.

    Args:
        signal: [M, N] or [M, N, Q], Q scores of an image under each model, jointly Gaussian.
        members: bool [M, N].
        target: the row that is attacked.
        spread: how the covariance is estimated: :func:`shared`, :func:`own` or :func:`by_number`.

    Returns:
        [N] float64 log-likelihood ratios; above 0 speaks for "member". 0, no evidence, for an image that all or none
        of the shadows saw.

    Raises:
        ValueError: shapes that do not fit, or no image at all that some shadows saw and others did not.
    """
    signal = (signal[..., None] if signal.ndim == 2 else signal).double()
    shadows, seen = others(signal, members, target)  # [K, N, Q], [K, N]
    ratio = _log_density(signal[target], shadows, seen, spread) - _log_density(signal[target], shadows, ~seen, spread)
    return torch.where(comparable(seen), ratio, 0.0)


def surprise(signal: Tensor, members: Tensor, target: int, *, spread: Spread = by_number) -> Tensor:
    """The offline attack on any score: equation 4. How far it lies above what models that did not see the image give.

    The attacker need not train a model on the image. Several queries are averaged first.

    Args and errors are as for :func:`likelihood_ratio`.

    Returns:
        [N] float64, standard deviations above the mean of OUT shadows; ranks as the paper's 1 - p-value does. 0 for an
        image without OUT shadows.
    """
    signal = (signal.mean(2) if signal.ndim == 3 else signal).double()
    shadows, seen = others(signal, members, target)  # [K, N] each
    mean, squares, freedom = _moments(shadows[..., None], ~seen)
    std = spread(squares, freedom)[:, 0, 0].sqrt().clamp(min=1e-6)  # [N] or [1]
    return torch.where((~seen).any(0), (signal[target] - mean[:, 0]) / std, 0.0)


def lira(logits: Tensor, labels: Tensor, members: Tensor, target: int, *, spread: Spread = by_number) -> Tensor:
    """Likelihood-ratio attack, online: Carlini et al. (2022), algorithm 1.

    The log-odds of an image under models that saw it, and under models that did not, are modelled as two Gaussians
    with means of their own; several queries of an image as two multivariate ones (section VI-C).

    Args:
        logits: [M, N, C] of all models on the pool, or [M, N, Q, C] of Q queries of each image.
        labels: [N] int64.
        members: bool [M, N].
        target: the row that is attacked.
        spread: how the covariance is estimated; with fewer than 64 shadows on a side, one for all images.

    Returns and errors are as for :func:`likelihood_ratio`.
    """
    return likelihood_ratio(odds(logits, labels), members, target, spread=spread)


def lira_offline(logits: Tensor, labels: Tensor, members: Tensor, target: int, *, spread: Spread = by_number) -> Tensor:
    """Likelihood-ratio attack, offline: Carlini et al. (2022), section VI-D. No model need see the attacked image.

    Args and errors are as for :func:`lira`; returns as :func:`surprise`.
    """
    return surprise(odds(logits, labels), members, target, spread=spread)


def _moments(signal: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the masked entries of signal [K, N, Q]: mean [N, Q], squares about it [N, Q, Q], degrees of freedom [N]."""
    count = mask.sum(0)  # [N]
    mean = (signal * mask[..., None]).sum(0) / count.clamp(min=1)[:, None]  # [N, Q]
    centred = ((signal - mean) * mask[..., None]).permute(1, 2, 0)  # [N, Q, K]
    # Each image's mean has taken one degree of freedom.
    return mean, centred @ centred.mT, (count - 1).clamp(min=0)


def _log_density(value: Tensor, signal: Tensor, mask: Tensor, spread: Spread) -> Tensor:
    """Log-density [N], up to a constant, of ``value`` [N, Q] under the masked entries of ``signal`` [K, N, Q]."""
    mean, squares, freedom = _moments(signal, mask)
    covariance = spread(squares, freedom)  # [N or 1, Q, Q]
    # Queries that always agree (a symmetric image and its mirror image) would leave it singular.
    least = 1e-12 + 1e-6 * covariance.diagonal(dim1=1, dim2=2).mean(1) * (signal.shape[2] > 1)  # [N or 1]
    root = torch.linalg.cholesky(covariance + torch.diag_embed(least[:, None].expand(-1, signal.shape[2])))
    # One triangle for all images solves for all of them at once.
    gap = (value - mean)[..., None] if len(root) > 1 else (value - mean).T[None]  # [N, Q, 1] or [1, Q, N]
    whitened = torch.linalg.solve_triangular(root, gap, upper=False)
    squared = whitened.square().sum(1).flatten()  # [N]
    return -0.5 * squared - root.diagonal(dim1=1, dim2=2).log().sum(1)
