"""The face that notebooks use: parameters in, cached models and datasets out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

import labkit
from labkit import data, device, display, generative, mixture
from labkit.attacks import Attack
from labkit.canaries import Planted, mislabelled
from labkit.frontier import Frontier, frontiers
from labkit.identity import described
from labkit.membership import halves
from labkit.mixture import Candidate, MixtureClassifier
from labkit.paramfiles import declared
from labkit.params import ParameterError, Params, mixture_problems, validate
from labkit.progress import progress
from labkit.record import Record
from labkit.results import Check, row
from labkit.robustness import Measure, Survival, measured, survive
from labkit.store import Store
from labkit.training import DEFENCES, LARGE, REGIMES, Ensemble, Recipe, at_epsilon, milestones, train
from labkit.workers import share


def open_lab(namespace: dict[str, Any] | None = None, **parameters: Any) -> Lab:
    """Check the parameters and open the lab.

    Args:
        namespace: a notebook's ``globals()``: its parameters cells are checked and used.
        parameters: set by name, over those of the namespace.

    Raises:
        ParameterError: with every problem there is.
    """
    given = declared(namespace) if namespace is not None else {}
    source = "this notebook's parameters" if namespace else "parameters"
    lab = Lab(validate(given | parameters, source))
    if {"gmm_components", "gmm_pca_dim"} & (given | parameters).keys():  # there may be fewer images than were asked for
        p = lab.params
        if problems := mixture_problems(p.gmm_components, p.gmm_pca_dim, len(lab.data.train)):
            raise ParameterError(problems, source)
    return lab


class Lab(Record):
    """One run's parameters, data, device and store, and the record of what was found.

    Attributes:
        params, device, store: validated; where models are trained; where finished work lies.
    """

    def __init__(self, params: Params, store: Store | None = None):
        super().__init__()
        self.params = params
        self.device = device.resolve(params.device, deterministic=params.deterministic)
        self.store = store or Store()
        self._ensembles: dict[tuple[Recipe, str], Ensemble] = {}
        display.show_provenance(self.provenance, self.data.title)

    @cached_property
    def data(self) -> data.Dataset:
        """The dataset that the parameters ask for, on the lab's device."""
        p = self.params
        return data.load(p.dataset, train_size=p.train_size, test_size=p.test_size, seed=p.seed, device=self.device)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the numbers rest on: data, parameters, versions, hardware."""
        return {
            "dataset": self.data.name,
            "dataset_sha256": self.data.sha256,
            "train_images": len(self.data.train.labels),
            "test_images": len(self.data.test.labels),
            "parameters": self.params.model_dump(),
            "labkit": labkit.__version__,
            "torch": torch.__version__,
            "device": self.device.type,
            "device_name": device.hardware_name(self.device),
            "opened": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    @property
    def stride(self) -> float:
        """Step of the stronger PGD attack, in radii: the weaker one's, unless that jumps from side to side."""
        return min(2.5 / self.params.pgd_steps, 0.25)

    def generator(self, *names: object) -> torch.Generator:
        """A generator on the CPU for one purpose, from the run's seed."""
        return device.generator(self.params.seed, *names)

    # Trained models: from the store, or trained now.

    def classifiers(self, regime: str, eps: float | None = None) -> Ensemble:
        """``seeds`` classifiers of a regime, ``robust_seeds`` of a defence, watched on the test set after every epoch.

        In large pieces, for a core a model: :meth:`at_once` has others beside it.

        Args:
            regime: without a radius, one of ``REGIMES``, trained on all training images; with one, one of ``DEFENCES``.
            eps: the l-infinity radius that is trained against. :attr:`validation` images are then held out, robust
                accuracy on them is noted after every epoch, and recipes that keep their best state choose it there.
        """
        p, size = self.params, len(self.data.train)
        if eps is None:
            everyone = torch.ones(p.seeds, size, dtype=torch.bool)
            epochs = {"standard": p.epochs, "pgd": p.pgd_epochs, "dp": p.dp_epochs}
            recipe = replace(REGIMES[regime](p, size, epochs[regime]), piece=LARGE)
            return self._train(recipe, everyone, "classifiers", watch=True)
        held_out = self.validation
        members = (~held_out).expand(p.robust_seeds, -1)
        validation = held_out if held_out.any() else None
        recipe = replace(DEFENCES[regime](p, int(members[0].sum()), eps), piece=LARGE)
        return self._train(recipe, members, "classifiers", watch=True, validation=validation)

    def private(self, epsilon: float) -> Ensemble:
        """``seeds`` classifiers as :meth:`classifiers` trains them with DP-SGD, at another epsilon."""
        p, size = self.params, len(self.data.train)
        recipe = at_epsilon(REGIMES["dp"](p, size, p.dp_epochs), epsilon, p.dp_delta)
        everyone = torch.ones(p.seeds, size, dtype=torch.bool)
        return self._train(replace(recipe, piece=LARGE), everyone, "private")

    @property
    def defences(self) -> list[tuple[str, float]]:
        """What :meth:`classifiers` takes: every defence that the parameters ask for, at each radius."""
        p = self.params
        return [(d, eps) for d in p.defences for eps in ([p.fgsm_eps] if d == "fgsm" else p.robust_eps)]

    def at_once(self, *works: Callable[[], Any]) -> list[Any]:
        """What long works return that do not need each other: on a CPU each has a core, on a GPU they take turns.

        They begin in their order: the cores end together where the last one is short.
        """
        return share(lambda work: work(), works, self.device)

    @cached_property
    def validation(self) -> Tensor:
        """Training images that defences hold out: bool [N], a share ``validation_share`` of them."""
        held_out = torch.zeros(len(self.data.train), dtype=torch.bool)
        part = self.params.validation_share
        size = max(1, round(part * len(held_out))) if part else 0
        held_out[torch.randperm(len(held_out), generator=self.generator("validation"))[:size]] = True
        return held_out

    def members(self, regime: str) -> Tensor:
        """Who trains on what in the privacy chapters: bool [M, N], a random half a model, the same for all regimes."""
        p = self.params
        models = {"standard": p.shadow_models, "pgd": p.shadow_pgd_models, "dp": p.shadow_dp_models}
        return halves(max(models.values()), len(self.data.train), self.generator("halves"))[: models[regime]]

    def shadows(self, regime: str) -> Ensemble:
        """Classifiers of a regime, each trained on its own random half: targets and shadows at once.

        The standard ones train for ``shadow_epochs``, long enough to overfit; of them the losses of all training images
        are noted on the way. :meth:`controls` are standard ones that train no longer than others.
        """
        p = self.params
        epochs = {"standard": p.shadow_epochs, "pgd": p.shadow_pgd_epochs, "dp": p.shadow_dp_epochs}[regime]
        # The expected number of members, a public constant; the number drawn is private.
        recipe = replace(REGIMES[regime](p, len(self.data.train) // 2, epochs), piece=LARGE)
        trace = milestones(epochs) if regime == "standard" else ()
        return self._train(recipe, self.members(regime), "shadows", trace=trace)

    def overfitted(self) -> tuple[data.Dataset, Ensemble]:
        """PGD-trained models that come to know few images by heart, and a dataset with these as its training images.

        Of the ``overfit_size`` images each trains on a random half for ``overfit_epochs``, against one radius and never
        on a mirror image, as the models that others attacked did; there are as many as :meth:`shadows`.
        """
        p, size = self.params, min(self.params.overfit_size, len(self.data.train))
        few = self.data.fewer(torch.randperm(len(self.data.train), generator=self.generator("overfit"))[:size])
        one_radius = p.model_copy(update={"train_spread": 0.0})
        recipe = replace(REGIMES["pgd"](one_radius, size // 2, p.overfit_epochs), piece=LARGE, mirror=False)
        members = halves(p.shadow_pgd_models, size, self.generator("overfit halves"))
        return few, self._train(recipe, members, "overfitted", data=few)

    def controls(self, regime: str) -> Ensemble:
        """Standard classifiers on the halves of a regime's shadows, for as many epochs, on images mirrored as theirs.

        What :meth:`shadows` of that regime differ from them in is the recipe's doing, and not a shorter training's.
        Where the standard shadows are trained just so, they are the controls; there may be more of them.
        """
        like, standard = self.shadows(regime), self.shadows("standard")
        recipe = REGIMES["standard"](self.params, len(self.data.train) // 2, like.recipe.epochs)
        recipe = replace(recipe, mirror=like.recipe.mirror, piece=LARGE)
        if recipe == standard.recipe and len(like) <= len(standard):
            return standard
        return self._train(recipe, like.members, "controls")

    def planted(self) -> tuple[Planted, Ensemble]:
        """Training images with ``audit_canaries`` mislabelled ones among them, and a private classifier trained so."""
        p = self.params
        canaries = min(p.audit_canaries, len(self.data.train) // 4)
        planted = mislabelled(self.data, canaries, device.derive(p.seed, "planted"))
        recipe = REGIMES["dp"](p, len(self.data.train), p.shadow_dp_epochs)
        return planted, self._train(recipe, planted.members, "planted", data=planted.data)

    def facts(self, ensemble: Ensemble) -> dict[str, float]:
        """What every row of a model says besides: the radius of its defence; its proved epsilon, and delta."""
        recipe, delta = ensemble.recipe, self.params.dp_delta
        proved = recipe.guarantee(delta)
        facts = {} if recipe.eps is None else {"train_eps": recipe.eps}
        return facts if proved is None else facts | {"epsilon": proved, "delta": delta}

    def _train(
        self, recipe: Recipe, members: Tensor, purpose: str, data: data.Dataset | None = None, **watched: Any
    ) -> Ensemble:
        key = recipe, purpose
        if key not in self._ensembles:
            radius = "" if recipe.eps is None else f" {recipe.eps:g}"
            self._ensembles[key] = train(
                recipe,
                data or self.data,
                members,
                seed=device.derive(self.params.seed, purpose),
                store=self.store,
                device=self.device,
                network=recipe.network,
                bar=partial(progress, what=f"{recipe.regime}{radius} {purpose}"),
                **watched,
            )
        return self._ensembles[key]

    def frontiers(self) -> list[Frontier]:
        """Private linear classifiers on scattering features, one for each of ``frontier_epsilon``, ``seeds`` times."""
        p = self.params
        return frontiers(
            self.data,
            p.frontier_epsilon,
            sample_rate=p.frontier_sample_rate,
            epochs=p.frontier_epochs,
            delta=p.dp_delta,
            seeds=[device.derive(p.seed, "frontier", index) for index in range(p.seeds)],
            store=self.store,
            bar=partial(progress, what="private classifiers on scattering features"),
        )

    def cvae(self) -> generative.Trained:
        """The conditional VAE, trained on a random half of the training images (IN); the other half is OUT."""
        p, seed = self.params, device.derive(self.params.seed, "cvae")
        recipe = generative.Recipe(p.cvae_latent, p.cvae_epochs, p.cvae_learning_rate, classes=len(self.data.classes))
        members = generative.split(len(self.data.train), self.generator("cvae members"))
        bar = partial(progress, what="cvae")
        return generative.train(recipe, self.data, members, seed=seed, store=self.store, bar=bar)

    def survive(
        self,
        faces: Sequence[Sequence[nn.Module]],
        attacks: Mapping[str, Attack],
        images: Tensor,
        labels: Tensor,
        eps: float,
        *,
        standing: Tensor | None = None,
    ) -> Survival:
        """:func:`labkit.robustness.survive` of M models' faces: from the store, or attacked now."""
        bar = partial(progress, what=f"{', '.join(attacks)} at {eps:g}")
        return survive(faces, attacks, images, labels, eps, store=self.store, standing=standing, bar=bar)

    def measured(self, measure: Measure, models: Iterable[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
        """:func:`labkit.robustness.measured` of M classifiers, [M, N, ...]: from the store, or found now."""
        bar = partial(progress, what=described(measure)["function"].rpartition(".")[2].replace("_", " "))
        return measured(measure, models, images, labels, store=self.store, bar=bar)

    # Mixtures: chosen on a part of the training images, fitted to all of them or to halves.

    @cached_property
    def mixture_candidates(self) -> list[Candidate]:
        """Every K, covariance and shrinkage, fitted to most of the training images and scored on the rest of them."""
        p = self.params
        dims = {"pca_dim": p.gmm_pca_dim, "max_iter": p.gmm_iterations, "seed": p.seed}
        return mixture.candidates(self.data.train, p.gmm_components, store=self.store, **dims)

    def mixture(self) -> MixtureClassifier:
        """The best candidate, fitted to all training images."""
        return self.mixtures(torch.ones(1, len(self.data.train), dtype=torch.bool))[0]

    def mixtures(self, members: Tensor) -> list[MixtureClassifier]:
        """The best candidate, fitted to those training images that each row of ``members`` [M, N] marks."""
        chosen = mixture.best(self.mixture_candidates)
        return [mixture.fit(self.data.train, rows, chosen.settings, store=self.store) for rows in members]


__all__ = ["Check", "Lab", "ParameterError", "open_lab", "row"]
