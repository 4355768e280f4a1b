"""A mixture a class and Bayes' rule: p(c | x) = prior_c p(x | c) / p(x), with a PCA in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import device
from labkit.mixture import em
from labkit.mixture.covariance import FORMS
from labkit.mixture.em import Mixtures
from labkit.mixture.gaussian import answer, check_settings, points
from labkit.mixture.pca import PCA, ROWS_AT_ONCE
from labkit.workers import Crew, spread


class MixtureLogits(nn.Module):
    """Images [N, 1, 28, 28] in [0, 1] (or rows [N, F]) to log-posteriors [N, C] / temperature, differentiable.

    A posterior of generative models is overconfident: log-posteriors often lie tens of nats apart, where the gradient
    of the log loss underflows in float32. A temperature above 1, which changes no decision, brings it back (Guo et al.
    2017), and spreads it over more classes: an attack may be stronger with it or without, and should try both.
    """

    def __init__(self, pca: PCA | None, mixtures: Mixtures, log_priors: Tensor, form: str, temperature: float = 1.0):
        super().__init__()
        self.form, self.temperature = form, temperature
        self.projected = pca is not None
        if pca is not None:
            self.register_buffer("origin", pca.mean)  # [F]
            self.register_buffer("components", pca.components)  # [D, F]
        self.register_buffer("means", mixtures.means)  # [C, K, D]
        self.register_buffer("factor", FORMS[form].factor(mixtures.covariances))  # [C, K, D] or [C, K, D, D]
        self.register_buffer("log_weights", mixtures.weights.log() + log_priors[:, None])  # [C, K]

    def log_joint(self, images: Tensor) -> Tensor:
        """log p(x, c): [N, ...] -> [N, C]."""
        x = images.flatten(1).to(self.means.dtype)  # [N, F]
        if self.projected:
            x = (x - self.origin) @ self.components.mT  # [N, D]
        density = FORMS[self.form].log_density(x[None], self.means, self.factor)  # [C, N, K]
        return (density + self.log_weights[:, None]).logsumexp(-1).mT

    def forward(self, images: Tensor) -> Tensor:
        return self.log_joint(images).log_softmax(-1) / self.temperature


def _flat(X: Any) -> Tensor:
    """Rows or images [N, ...] as a tensor [N, F]."""
    x = X if isinstance(X, Tensor) else torch.as_tensor(np.asarray(X))
    return x.flatten(1) if x.ndim > 2 else x


class MixtureClassifier:
    """Plug-in Bayes classifier: a Gaussian mixture a class, all fitted in one batched EM.

    Args:
        n_components, covariance, tol, reg_covar, max_iter, n_init, seed: see :class:`GaussianMixture`; the floor is
            relative to the variance over all classes.
        pca_dim: principal components (of all training rows) that the mixtures see; None for the rows as they are.
        temperature: divides the logits of :meth:`as_module`, and nothing else (see :meth:`calibrate`).
        shrinkage: points for which the covariance within components, pooled over all classes, counts in each
            component's covariance. 0 for none, which full covariances of few points cannot afford.

    Attributes:
        classes_: the labels, ascending, [C]. log_priors_: log share of each, [C].
        pca_: a :class:`PCA` or None. mixtures_: C :class:`Mixtures` in its space.
        history_: C lists. converged_: [C]. settings: the arguments by name.
    """

    def __init__(
        self,
        n_components: int = 5,
        covariance: str = "diag",
        *,
        pca_dim: int | None = None,
        shrinkage: float = 0.0,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
    ):
        check_settings(n_components, covariance, shrinkage, reg_covar, max_iter, n_init)
        if pca_dim is not None and pca_dim < 1:
            raise ValueError(f"pca_dim = {pca_dim}, but must be at least 1, or None for no PCA")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature = {temperature} must be positive and finite: logits are divided by it")
        self.settings = {
            "n_components": int(n_components),
            "covariance": covariance,
            "pca_dim": pca_dim,
            "shrinkage": float(shrinkage),
            "tol": tol,
            "reg_covar": reg_covar,
            "max_iter": int(max_iter),
            "n_init": int(n_init),
            "seed": seed,
            "temperature": temperature,
        }

    def fit(self, X: Any, y: Any, *, classes: Sequence[int] | None = None) -> MixtureClassifier:
        """Fit to rows or images X [N, ...] and whole-number labels y [N].

        Args:
            classes: the labels there must be; by default those that occur in y.

        Raises:
            ValueError: shapes that do not fit, NaN or infinite values, a class with fewer rows than components (or
                none), a label outside ``classes``, more principal components than the rows span.
        """
        s = self.settings
        x = points(_flat(X))
        labels = torch.as_tensor(y).to(x.device)
        if labels.ndim != 1 or len(labels) != len(x):
            raise ValueError(f"y has shape {tuple(labels.shape)}, but X has {len(x)} rows; give one label a row")
        if labels.dtype.is_floating_point or labels.dtype.is_complex:
            raise ValueError(f"y holds {labels.dtype}, but labels are whole numbers; convert it, e.g. y.astype(int)")
        self.classes_ = labels.unique() if classes is None else torch.as_tensor(sorted(classes)).to(labels)
        index = [(labels == c).nonzero()[:, 0] for c in self.classes_]
        for c, rows in zip(self.classes_.tolist(), index, strict=True):
            if len(rows) < s["n_components"]:
                raise ValueError(
                    f"n_components = {s['n_components']}, but class {c} has {len(rows)} rows only; "
                    "try to decrease n_components, or give more rows of that class"
                )
        if sum(map(len, index)) < len(labels):
            strange = sorted(set(labels.unique().tolist()) - set(self.classes_.tolist()))
            raise ValueError(f"y holds the labels {strange}, which are not among classes = {self.classes_.tolist()}")

        self.pca_ = PCA.fit(x, s["pca_dim"]) if s["pca_dim"] is not None else None
        z = self.pca_.transform(x) if self.pca_ else x.double()  # [N, D]
        counts = torch.tensor([len(rows) for rows in index])
        stacked = z.new_zeros(len(index), int(counts.max()), z.shape[1])  # [C, Nmax, D]
        mask = z.new_zeros(stacked.shape[:2])  # [C, Nmax]
        for c, rows in enumerate(index):
            stacked[c, : len(rows)], mask[c, : len(rows)] = z[rows], 1
        found = em.fit(
            stacked,
            mask,
            s["n_components"],
            FORMS[s["covariance"]],
            em.variance_floor(z, s["reg_covar"]),
            [device.generator(s["seed"], "mixture", c) for c in range(len(index))],
            **{name: s[name] for name in ("shrinkage", "tol", "max_iter", "n_init")},
        )
        self.mixtures_, self.converged_, self.history_ = found.mixtures, found.converged, found.history
        self.log_priors_ = (counts / counts.sum()).log().to(z)
        return self

    def _rows(self, X: Any) -> Tensor:
        """X [N, ...] as checked rows [N, F], where the mixtures are."""
        means = self.mixtures_.means
        return points(_flat(X), features=len(self.pca_.mean) if self.pca_ else means.shape[-1]).to(means.device)

    def _module(self) -> MixtureLogits:
        if not hasattr(self, "mixtures_"):
            raise ValueError("this MixtureClassifier is not fitted; call fit(X, y) first")
        with Crew(1):  # several cores would round the factors differently
            return MixtureLogits(self.pca_, self.mixtures_, self.log_priors_, self.settings["covariance"])

    def log_joint(self, X: Any) -> Any:
        """log p(x, c), in float64: X [N, ...] -> [N, C], columns in the order of ``classes_``; differentiable."""
        module = self._module()
        return answer(torch.cat([module.log_joint(part) for part in self._rows(X).split(ROWS_AT_ONCE)]), X)

    def _joint(self, X: Any) -> Tensor:
        """:meth:`log_joint` without a gradient, a core a piece: [N, C]."""
        module, rows = self._module(), self._rows(X)

        def of_part(part: slice) -> Tensor:
            with torch.no_grad():  # a thread's own state
                return module.log_joint(rows[part])

        return torch.cat(spread(of_part, len(rows), rows.device))

    def log_posterior(self, X: Any) -> Any:
        """log p(c | x), in float64: X [N, ...] -> [N, C], columns in the order of ``classes_``; differentiable."""
        return answer(torch.as_tensor(self.log_joint(X)).log_softmax(-1), X)

    def predict(self, X: Any) -> Any:
        """The most probable label of each row: X [N, ...] -> [N]."""
        best = self._joint(X).argmax(-1)
        return answer(self.classes_[best.to(self.classes_.device)], X)

    def bic(self, X: Any, y: Any) -> float:
        """Bayesian information criterion of p(x, c) on labelled rows, lower is better (shrinkage is not counted)."""
        joint = self._joint(X)
        own = torch.as_tensor(y).to(joint.device)[:, None] == self.classes_.to(joint.device)  # [N, C]
        c, k, d = self.mixtures_.means.shape
        free = c - 1 + c * (k - 1 + k * d + k * FORMS[self.settings["covariance"]].free(d))
        return free * math.log(len(joint)) - 2 * float(joint[own].sum())

    def calibrate(self, X: Any, y: Any) -> MixtureClassifier:
        """Choose the temperature by the least log loss on rows that were *not* fitted (Guo et al. 2017)."""
        logits = self._joint(X).log_softmax(-1)
        own = torch.as_tensor(y).to(logits.device)[:, None] == self.classes_.to(logits.device)
        grid = torch.logspace(0, 2, 81, dtype=logits.dtype).tolist()
        self.settings["temperature"] = min(grid, key=lambda t: -float((logits / t).log_softmax(-1)[own].mean()))
        return self

    def as_module(self, temperature: float | None = None) -> MixtureLogits:
        """The classifier as a float32 module from images in [0, 1] to log-posterior / temperature, for attacks.

        The temperature is that of the settings unless another is given.
        Column c is ``classes_[c]``: with labels 0 to C - 1, as in the datasets here, column and label are the same.
        """
        module = self._module().float().eval()
        module.temperature = self.settings["temperature"] if temperature is None else temperature
        return module

    def component_means(self) -> Tensor:
        """Means in the space of X: [C, K, F]."""
        return self.pca_.inverse(self.mixtures_.means) if self.pca_ else self.mixtures_.means

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws from each class's mixture, in the space of X: [C, n, F]."""
        weights, means, covariances = self.mixtures_
        generator = device.generator(seed, "mixture", "sample")
        picks = torch.multinomial(weights.cpu(), n, replacement=True, generator=generator).to(weights.device)  # [C, n]
        noise = torch.randn(len(weights), n, means.shape[-1], generator=generator, dtype=means.dtype).to(means.device)
        batch = torch.arange(len(weights), device=weights.device)[:, None]
        z = means[batch, picks] + FORMS[self.settings["covariance"]].draw(noise, covariances[batch, picks])
        return self.pca_.inverse(z) if self.pca_ else z

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """``(tensors, facts)``: what the store keeps, and :meth:`from_state` reads."""
        tensors = {f"mixture.{name}": part for name, part in self.mixtures_._asdict().items()}
        tensors |= {"classes": self.classes_, "log_priors": self.log_priors_, "converged": self.converged_}
        if self.pca_:
            tensors |= {f"pca.{name}": part for name, part in self.pca_._asdict().items()}
        return tensors, {"settings": dict(self.settings), "history": self.history_}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> MixtureClassifier:
        """The classifier that :meth:`state` came from."""
        made = cls(**facts["settings"])
        made.mixtures_ = Mixtures(*(tensors[f"mixture.{name}"] for name in Mixtures._fields))
        made.pca_ = PCA(*(tensors[f"pca.{name}"] for name in PCA._fields)) if "pca.mean" in tensors else None
        made.classes_, made.log_priors_ = tensors["classes"], tensors["log_priors"]
        made.converged_, made.history_ = tensors["converged"], facts["history"]
        return made
