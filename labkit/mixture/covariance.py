"""The two forms of a component's covariance: diagonal and full.

Each form is a handful of small pure functions of batched tensors; the EM loop does not know which one it runs. The
batch axis comes first: ``C`` mixtures (the classes of a classifier) of ``K`` components over ``N`` points [C, N, D].
``factor`` P is a matrix with P P^T = inverse covariance (a vector for the diagonal form, 1 / standard deviation), so
that a squared Mahalanobis distance is |(x - mean) P|^2 and half a log-determinant is -sum log diag P.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Diagonal:
    """Covariances [C, K, D]: variances along the axes."""

    def scatter(self, x: Tensor, resp: Tensor, means: Tensor, counts: Tensor) -> Tensor:
        """Weighted covariance about ``means``: x [C, N, D], resp [C, N, K], counts [C, K] -> [C, K, D]."""
        second = resp.mT @ (x * x) / counts[..., None]  # [C, K, D]
        first = resp.mT @ x / counts[..., None]  # [C, K, D]
        return second - 2 * means * first + means * means

    def at_least(self, covariances: Tensor, floor: Tensor) -> Tensor:
        """The most likely variances among those not below ``floor`` [D]."""
        return torch.maximum(covariances, floor)

    def factor(self, covariances: Tensor) -> Tensor:
        """1 / standard deviation, [C, K, D]."""
        return covariances.rsqrt()

    def log_density(self, x: Tensor, means: Tensor, factor: Tensor) -> Tensor:
        """log N(x | mean, covariance): x [C or 1, N, D] -> [C, N, K]."""
        precision = factor * factor  # [C, K, D]
        shift = (means * means * precision).sum(-1)[:, None]  # [C, 1, K]
        square = (x * x) @ precision.mT - 2 * x @ (means * precision).mT + shift  # [C, N, K]
        return factor.log().sum(-1)[:, None] - (square.clamp_min(0) + x.shape[-1] * math.log(2 * math.pi)) / 2

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


class Full:
    """Covariances [C, K, D, D]. Loops over K: the memory of one component at a time, [C, N, D]."""

    def scatter(self, x: Tensor, resp: Tensor, means: Tensor, counts: Tensor) -> Tensor:
        """Weighted covariance about ``means``: x [C, N, D], resp [C, N, K], counts [C, K] -> [C, K, D, D]."""
        parts = []
        for k in range(means.shape[1]):
            centred = (x - means[:, k, None]) * resp[..., k, None].sqrt()  # [C, N, D]
            parts.append(centred.mT @ centred / counts[:, k, None, None])  # [C, D, D]
        return torch.stack(parts, 1)

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
        """log N(x | mean, covariance): x [C or 1, N, D] -> [C, N, K]."""
        squares = []
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
