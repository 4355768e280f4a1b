"""Ten class mixtures, against scikit-learn's GaussianMixture class by class: same start, same number of EM steps."""

from __future__ import annotations

import warnings

import torch
from sklearn.mixture import GaussianMixture

from benchmarks.protocol import Result, against, in_turn
from labkit import data
from labkit.device import generator
from labkit.mixture import em
from labkit.mixture.covariance import FORMS
from labkit.mixture.pca import PCA

STEPS = 20


def mixture(
    device: torch.device, sizes: tuple[int, ...] = (1200, 6000), repeats: int = 3, counts: tuple[int, ...] = (5, 25)
) -> tuple[list[Result], dict]:
    """EM only: both start from labkit's k-means++ and Lloyd, and take 20 steps in float64, on 50 PCA features.

    scikit-learn is told not to regularise; labkit's floor under variances is what keeps a collapsing component, so the
    likelihoods differ where one collapses. Full covariances need 300 points a component, or scikit-learn stops.
    """
    images = data.load(test_size=500, device=device).train
    found = PCA.fit(images.images[:20_000].flatten(1), 50)
    z = found.transform(images.images.flatten(1)).double()
    results = []
    for n in sizes:
        x = torch.stack([z[images.labels == c][:n] for c in range(10)])  # [10, n, 50]
        x = x - x.mean(1, keepdim=True)
        mask = x.new_ones(x.shape[:2])
        for components in counts:
            for name, form in FORMS.items():
                if name == "full" and n < 300 * components:
                    continue  # a component collapses on the way, and scikit-learn, told not to regularise, stops
                floor = em.variance_floor(z, 1e-9)
                prior = em.Prior(floor, 0.0, torch.zeros_like(form.part(floor.diag())))
                draws = [generator(0, "bench", c) for c in range(10)]
                centres = em.lloyd(x, mask, em.seed_centres(x, mask, components, draws))
                start = em.from_centres(x, mask, centres, form, prior)
                points, begun = x.cpu().numpy(), [part.cpu() for part in start]
                factor = form.factor(start.covariances).cpu()
                precisions = (factor * factor if name == "diag" else factor @ factor.mT).numpy()
                likelihood: dict[str, float] = {}

                def ours() -> None:
                    fit = em.climb(x, mask, start, form, prior, tol=0.0, max_iter=STEPS)  # noqa: B023
                    likelihood["labkit"] = sum(h[-1] for h in fit.history) / 10  # noqa: B023

                def theirs() -> None:
                    total = 0.0
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that 20 steps do not converge
                        for c in range(10):
                            made = GaussianMixture(
                                components,  # noqa: B023
                                covariance_type=name,  # noqa: B023
                                tol=0.0,
                                reg_covar=0.0,
                                max_iter=STEPS,
                                weights_init=begun[0][c].numpy(),  # noqa: B023
                                means_init=begun[1][c].numpy(),  # noqa: B023
                                precisions_init=precisions[c],  # noqa: B023
                                init_params="random_from_data",
                                random_state=0,
                            ).fit(points[c])  # noqa: B023
                            total += made.lower_bound_ / 10
                    likelihood["sklearn"] = total  # noqa: B023

                taken = in_turn({"labkit": ours, "sklearn": theirs}, device, repeats)
                note = (
                    f"mean log-likelihood {likelihood['labkit']:.6f} (labkit), "
                    f"{likelihood['sklearn']:.6f} (scikit-learn)"
                )
                work = f"10 class mixtures of {n:,} points each, K = {components}, {name}"
                results.append(against(work, "scikit-learn", taken["labkit"], taken["sklearn"], note))
    return results, {}
