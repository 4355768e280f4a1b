"""The two forms of a component's covariance: diagonal and full.

Each form is a handful of small pure functions of batched tensors; the EM loop does not know which one it runs. The
batch axis comes first: ``C`` mixtures (the classes of a classifier) of ``K`` components over ``N`` points [C, N, D].
``factor`` P is a matrix with P P^T = inverse covariance (a vector for the diagonal form, 1 / standard deviation), so
that a squared Mahalanobis distance is |(x - mean) P|^2 and half a log-determinant is -sum log diag P.

A Gaussian is an exponential family: log N(x | k) = <natural_k, statistics(x)>, and its maximum-likelihood estimate
needs no more than the weighted sums of the statistics (Bishop 2006, section 2.4). With the statistics at hand, an EM
step is two matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Diagonal:
    """Covariances [C, K, D]: variances along the axes."""

    keeps_statistics = True  # of all points, from one EM step to the next: they are few

    def statistics(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """1, x and the squares of its elements: [C, D, N] -> [C, F, N], in ``out`` where that is given and fits."""
        return torch.cat([torch.ones_like(x[:, :1]), x, x * x], 1)

    def natural(self, means: Tensor, factor: Tensor) -> Tensor:
        """Coefficients of the statistics in log N(x | mean, covariance): [C, K, F]."""
        precision = factor * factor  # [C, K, D]
        linear = means * precision
        constant = factor.log().sum(-1) - ((means * linear).sum(-1) + means.shape[-1] * math.log(2 * math.pi)) / 2
        return torch.cat([constant[..., None], linear, -precision / 2], -1)

    def scatter(self, average: Tensor, means: Tensor) -> Tensor:
        """Covariance about ``means`` from averages [C, K, F] of the statistics: [C, K, D]."""
        _, first, second = average.split([1, means.shape[-1], means.shape[-1]], -1)
        return second - 2 * means * first + means * means

    def at_least(self, covariances: Tensor, floor: Tensor) -> Tensor:
        """The most likely variances among those not below ``floor`` [D]."""
        return torch.maximum(covariances, floor)

    def factor(self, covariances: Tensor) -> Tensor:
        """1 / standard deviation, [C, K, D]."""
        return covariances.rsqrt()

    def log_density(self, x: Tensor, means: Tensor, factor: Tensor) -> Tensor:
        """log N(x | mean, covariance): x [C or 1, N, D] -> [C, N, K]; the memory of one component at a time."""
        squares = []
        for k in range(means.shape[1]):  # squares multiplied out would leave nothing of small differences
            white = (x - means[:, k, None]) * factor[:, k, None]  # [C, N, D]
            squares.append((white * white).sum(-1))  # [C, N]
        return factor.log().sum(-1)[:, None] - (torch.stack(squares, -1) + x.shape[-1] * math.log(2 * math.pi)) / 2

    def log_prior(self, factor: Tensor, target: Tensor) -> Tensor:
        """log of an inverse-Wishart prior worth one point of covariance ``target`` [D], up to a constant: [C, K]."""
        return factor.log().sum(-1) - (factor * factor * target).sum(-1) / 2

    def part(self, covariance: Tensor) -> Tensor:
        """The part of a covariance [..., D, D] that this form keeps."""
        return covariance.diagonal(dim1=-2, dim2=-1)

    def free(self, dimensions: int) -> int:
        """Free parameters of one covariance."""
        return dimensions

    def draw(self, noise: Tensor, covariances: Tensor) -> Tensor:
        """Noise [..., D] of the given covariances [..., D] from standard normal noise."""
        return noise * covariances.sqrt()


def _middle(means: Tensor) -> Tensor:
    """Of components [C, K, D], [D]: the medians, since an empty one may lie anywhere."""
    means = means.flatten(0, 1)
    return means.sort(0).values[(len(means) - 1) // 2]  # of median itself a GPU has no deterministic form


class Full:
    """Covariances [C, K, D, D]."""

    keeps_statistics = False

    def statistics(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """1, x and the products of its elements, each pair once: [C, D, N] -> [C, F, N], in ``out`` if that fits."""
        size, at = x.shape[1], 1 + x.shape[1]
        shape = (len(x), at + size * (size + 1) // 2, x.shape[2])
        found = x.new_empty(shape) if out is None or out.shape != shape else out
        found[:, 0], found[:, 1:at] = 1, x
        for i in range(size):
            torch.mul(x[:, i, None], x[:, i:], out=found[:, at : at + size - i])
            at += size - i
        return found

    def natural(self, means: Tensor, factor: Tensor) -> Tensor:
        """Coefficients of the statistics in log N(x | mean, covariance): [C, K, F]."""
        precision = factor @ factor.mT  # [C, K, D, D]
        linear = (precision @ means[..., None])[..., 0]  # [C, K, D]
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = half_log_det - ((means * linear).sum(-1) + means.shape[-1] * math.log(2 * math.pi)) / 2
        rows, columns = self._pairs(means)
        pairs = precision[..., rows, columns] * torch.where(rows == columns, -0.5, -1.0).to(means)
        return torch.cat([constant[..., None], linear, pairs], -1)

    def scatter(self, average: Tensor, means: Tensor) -> Tensor:
        """Covariance about ``means`` from averages [C, K, F] of the statistics: [C, K, D, D]."""
        size = means.shape[-1]
        rows, columns = self._pairs(means)
        second = average.new_empty(*means.shape, size)
        second[..., rows, columns] = second[..., columns, rows] = average[..., 1 + size :]
        cross = average[..., 1 : 1 + size, None] * means[..., None, :]
        return second - cross - cross.mT + means[..., None] * means[..., None, :]

    def _pairs(self, x: Tensor) -> Tensor:
        """Row and column of each element of the upper triangle: [2, D (D + 1) / 2]."""
        return torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)

    def at_least(self, covariances: Tensor, floor: Tensor) -> Tensor:
        """The most likely covariances among those with ``covariance - diag(floor)`` positive semi-definite.

        The maximiser clips eigenvalues at 1 in the space where the floor is the identity (Theobald 1975); most
        covariances need no clipping, which a Cholesky factorisation tells at a fraction of the cost.
        """
        _, failed = torch.linalg.cholesky_ex(covariances - floor.diag())
        low = failed > 0  # [C, K]
        if low.any():
            root = floor.sqrt()
            values, vectors = torch.linalg.eigh(covariances[low] / (root[:, None] * root))
            clipped = (vectors * values.clamp_min(1)[..., None, :]) @ vectors.mT
            covariances = covariances.clone()
            covariances[low] = clipped * (root[:, None] * root)
        return covariances

    def factor(self, covariances: Tensor) -> Tensor:
        """Inverse transposed Cholesky factor, upper triangular, [C, K, D, D]."""
        lower = torch.linalg.cholesky(covariances)
        identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, identity, upper=False).mT

    def log_density(self, x: Tensor, means: Tensor, factor: Tensor) -> Tensor:
        """log N(x | mean, covariance): x [C or 1, N, D] -> [C, N, K]; the memory of one component at a time."""
        squares, origin = [], _middle(means)  # products with what lies far from 0 would leave nothing of differences
        x, means = x - origin, means - origin
        for k in range(means.shape[1]):
            white = x @ factor[:, k] - means[:, k, None] @ factor[:, k]  # [C, N, D]
            squares.append((white * white).sum(-1))  # [C, N]
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]  # [C, 1, K]
        return half_log_det - (torch.stack(squares, -1) + x.shape[-1] * math.log(2 * math.pi)) / 2

    def log_prior(self, factor: Tensor, target: Tensor) -> Tensor:
        """log of an inverse-Wishart prior worth one point of covariance ``target`` [D, D], up to a constant: [C, K]."""
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return half_log_det - (factor * (target @ factor)).sum((-2, -1)) / 2

    def part(self, covariance: Tensor) -> Tensor:
        """The part of a covariance [..., D, D] that this form keeps."""
        return covariance

    def free(self, dimensions: int) -> int:
        """Free parameters of one covariance."""
        return dimensions * (dimensions + 1) // 2

    def draw(self, noise: Tensor, covariances: Tensor) -> Tensor:
        """Noise [..., D] of the given covariances [..., D, D] from standard normal noise."""
        return (torch.linalg.cholesky(covariances) @ noise[..., None])[..., 0]


FORMS = {"diag": Diagonal(), "full": Full()}
