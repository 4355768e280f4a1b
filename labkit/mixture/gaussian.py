"""One Gaussian mixture, with the names and conventions of scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit import device
from labkit.mixture import em
from labkit.mixture.covariance import FORMS
from labkit.mixture.em import Mixtures


def points(x: Any, name: str = "X", features: int | None = None) -> Tensor:
    """``x`` (a tensor or what numpy reads) as a tensor [N, D] of finite numbers.

    Raises:
        ValueError: not two axes, no row or column, not ``features`` columns, or NaN or infinite values.
    """
    x = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, but must be [N, D] with N >= 1 and D >= 1; reshape it")
    if features is not None and x.shape[1] != features:
        raise ValueError(f"{name} has {x.shape[1]} features a row, but the mixture was fitted on {features}")
    if not x.dtype.is_floating_point:
        return x.double()
    finite = torch.isfinite(x).all(1)
    if not finite.all():
        bad = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(x)} rows (the first is row {bad[0]}); "
            "remove or impute them"
        )
    return x


def answer(value: Tensor, question: Any) -> Any:
    """In the kind of the question: a tensor for a tensor, else a numpy array."""
    return value if isinstance(question, Tensor) else value.cpu().numpy()


def check_settings(n_components: int, covariance: str, shrinkage: float, reg_covar: float, max_iter: int, n_init: int):
    """Raise a ValueError that names the first setting out of its range."""
    for name, value in (("n_components", n_components), ("max_iter", max_iter), ("n_init", n_init)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} = {value!r}, but must be a whole number of at least 1")
    if covariance not in FORMS:
        raise ValueError(f"covariance = {covariance!r}, but must be one of {', '.join(map(repr, FORMS))}")
    if not (shrinkage >= 0 and math.isfinite(shrinkage)):
        raise ValueError(f"shrinkage = {shrinkage!r}, but must be a number of points >= 0")
    if not (reg_covar > 0 and math.isfinite(reg_covar)):
        raise ValueError(f"reg_covar = {reg_covar!r}, but must be above 0 (a share of each feature's variance)")


class GaussianMixture:
    """A mixture density, p(x) = sum_k weight_k N(x | mean_k, covariance_k), fitted by EM in float64.

    Args:
        n_components: K >= 1.
        covariance: ``diag`` or ``full``.
        tol: EM stops when the objective per point gains less.
        reg_covar: the least variance of a component, as a share of each feature's variance (a constant feature counts
            as of variance 1). A bound, not a term that is added: it leaves a component that stays clear of it alone.
        max_iter: EM steps at most.
        n_init: starts, of which the best is kept.
        shrinkage: points for which a prior at the pooled covariance within components counts; 0 for none.
        seed: of the starts (k-means++).
        weights_init [K], means_init [K, D], precisions_init [K, D] or [K, D, D]: parts of the start, given.

    Attributes:
        weights_ [K], means_ [K, D], covariances_ [K, D] or [K, D, D]: float64 tensors.
        history_: objective per point (the log-likelihood, and with shrinkage the log-prior) before each step; it never
            falls.
        n_iter_, converged_, lower_bound_: steps taken, whether ``tol`` was met, the last of ``history_``.
    """

    def __init__(
        self,
        n_components: int = 1,
        covariance: str = "diag",
        *,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        shrinkage: float = 0.0,
        seed: int = 0,
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
    ):
        check_settings(n_components, covariance, shrinkage, reg_covar, max_iter, n_init)
        self.n_components, self.covariance, self.tol, self.reg_covar = n_components, covariance, tol, reg_covar
        self.max_iter, self.n_init, self.shrinkage, self.seed = max_iter, n_init, shrinkage, seed
        self.weights_init, self.means_init, self.precisions_init = weights_init, means_init, precisions_init

    def fit(self, X: Any, y: Any = None) -> GaussianMixture:
        """Fit to X [N, D]; ``y`` is ignored.

        Raises:
            ValueError: X of wrong shape, with NaN or infinite values, or with fewer rows than components.
        """
        x = points(X).double()
        if len(x) < self.n_components:
            raise ValueError(
                f"n_components = {self.n_components}, but X has {len(x)} rows only; "
                "try to decrease n_components, or give more rows"
            )
        found = em.fit(
            x[None],
            x.new_ones(1, len(x)),
            self.n_components,
            FORMS[self.covariance],
            em.variance_floor(x, self.reg_covar),
            [device.generator(self.seed, "mixture", 0)],
            shrinkage=self.shrinkage,
            tol=self.tol,
            max_iter=self.max_iter,
            n_init=self.n_init,
            start=self._given,
        )
        self._mixtures = found.mixtures
        self.weights_, self.means_, self.covariances_ = (part[0] for part in found.mixtures)
        self.converged_, self.history_ = bool(found.converged[0]), found.history[0]
        self.n_iter_, self.lower_bound_ = len(self.history_), self.history_[-1]
        return self

    def _given(self, start: Mixtures) -> Mixtures:
        """The start, with those parts that the user gave."""
        given = {"weights": self.weights_init, "means": self.means_init, "covariances": self.precisions_init}
        parts = {}
        for name, value in given.items():
            if value is None:
                continue
            part = getattr(start, name)
            value = torch.as_tensor(value).to(part)[None]
            if value.shape != part.shape:
                argument = "precisions_init" if name == "covariances" else f"{name}_init"
                raise ValueError(f"{argument} has shape {list(value.shape[1:])}, but must be {list(part.shape[1:])}")
            parts[name] = value
        if "weights" in parts and not (parts["weights"].min() >= 0 and abs(parts["weights"].sum() - 1) < 1e-6):
            raise ValueError(f"weights_init = {parts['weights'][0].tolist()} must be shares: 0 or more each, 1 in all")
        if strange := [name for name, part in parts.items() if not part.isfinite().all()]:
            raise ValueError(f"the start has NaN or infinite {', '.join(strange)}; give numbers")
        if "covariances" in parts:
            given = parts["covariances"]
            least = given.min() if self.covariance == "diag" else torch.linalg.eigvalsh(given).min()
            if not least > 0:
                raise ValueError(f"precisions_init reach down to {least:.3g}, but must be positive (definite)")
            invert = torch.reciprocal if self.covariance == "diag" else torch.linalg.inv
            parts["covariances"] = invert(parts["covariances"])
        return start._replace(**parts)

    def score_samples(self, X: Any) -> Any:
        """log p(x) of each row (natural logarithm): X [N, D] -> [N], float64, a tensor for a tensor."""
        if not hasattr(self, "_mixtures"):
            raise ValueError("this GaussianMixture is not fitted; call fit(X) first")
        x = points(X, features=self.means_.shape[1]).to(self.means_)
        return answer(em.log_joint(x[None], self._mixtures, FORMS[self.covariance])[0].logsumexp(-1), X)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X (Schwarz 1978), lower is better: p log N - 2 log-likelihood."""
        scores = torch.as_tensor(self.score_samples(X))
        return self.free_parameters * math.log(len(scores)) - 2 * float(scores.sum())

    @property
    def free_parameters(self) -> int:
        """p: weights (less one), means and covariances."""
        k, d = self.means_.shape
        return k - 1 + k * d + k * FORMS[self.covariance].free(d)
