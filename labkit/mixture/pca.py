"""Principal components, from the covariance's eigenvectors (Bishop 2006, section 12.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labkit.workers import Crew

ROWS_AT_ONCE = 4096


class PCA(NamedTuple):
    """An orthonormal projection. No whitening: ratios of given densities do not depend on the scale of an axis.

    One core finds and applies it: several would round differently, and gain little.

    Attributes:
        mean: [F].
        components: [D, F], orthonormal rows, by falling variance; each one's entry of largest size is positive.
        variance: share of the total variance that each component holds, [D].
    """

    mean: Tensor
    components: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, x: Tensor, dimensions: int) -> PCA:
        """The ``dimensions`` directions of largest variance of x [N, F], in float64.

        Raises:
            ValueError: the rows vary along fewer directions.
        """
        parts = x.split(ROWS_AT_ONCE)  # float64 copies of a part at a time
        with Crew(1):
            mean = torch.stack([p.double().sum(0) for p in parts]).sum(0) / len(x)
            scatter = mean.new_zeros(len(mean), len(mean))
            for p in parts:
                centred = p.double() - mean  # [n, F]
                scatter += centred.mT @ centred
            values, vectors = torch.linalg.eigh(scatter)  # ascending
        rank = int((values > values[-1] * 1e-12).sum()) if values[-1] > 0 else 0
        if dimensions > rank:
            raise ValueError(
                f"pca_dim = {dimensions}, but the {len(x)} rows of {len(mean)} features vary along {rank} directions "
                f"only; try to decrease pca_dim to at most {rank}"
            )
        components = vectors.flip(1).mT[:dimensions]  # [D, F]
        largest = components.abs().argmax(1, keepdim=True)
        components = components * components.gather(1, largest).sign()
        return cls(mean, components, values.flip(0)[:dimensions] / values.sum())

    def transform(self, x: Tensor) -> Tensor:
        """x [N, F] -> [N, D]."""
        with Crew(1):
            return torch.cat([(p.to(self.mean.dtype) - self.mean) @ self.components.mT for p in x.split(ROWS_AT_ONCE)])

    def inverse(self, z: Tensor) -> Tensor:
        """z [..., D] -> [..., F]: the point of the plane with these coordinates."""
        return z @ self.components + self.mean
