"""Signs that an evaluation flatters its model: gradients that mislead, outputs that hide them, orders turned round.

After Athalye et al. (2018), section 3.1, Carlini et al. (2019), section 4.3, and the flags of AutoAttack. The functions
state facts; :func:`signs` holds them against limits. A check that fails says that the figures beside it may be too
high, not by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from labkit.attacks.ascent import input_gradient, slope
from labkit.attacks.gradient import fgsm, pgd, withstand
from labkit.attacks.losses import margin
from labkit.attacks.promises import check, correct, eval_mode, outputs
from labkit.results import Check
from labkit.workers import spread

VANISHED = 1e-20  # largest entry of a gradient that has underflowed; sure of its answer, a network has 1e-15 or so
NUDGE = 0.01  # l-infinity length of the step that the gradient has to foretell
EVERYTHING = 0.5  # a radius at which every image can be made the same grey one


def silent(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The points where the cross-entropy has no gradient for an attack to follow: bool [N]."""

    def of_part(part: slice) -> Tensor:
        return input_gradient(model, images[part], labels[part]).abs().flatten(1).amax(1) <= VANISHED

    with eval_mode(model):
        return torch.cat(spread(of_part, len(images), images.device))


def unsteadiness(model: nn.Module, images: Tensor) -> float:
    """Largest difference between the logits of two passes over the same images, over the spread of the logits."""
    first, second = outputs(model, images), outputs(model, images)
    return ((first - second).abs().max() / first.std().clamp(min=1e-12)).item()


def probabilities(model: nn.Module, images: Tensor) -> bool:
    """Whether the outputs are probabilities: not negative, each row's sum one. Losses would take a softmax twice."""
    found = outputs(model, images).double()
    return bool((found >= 0).all() and ((found.sum(1) - 1).abs() < 1e-4).all())


def unforeseen(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the points where a small sign step changes the margin by less than half, or more than 1.5 times, of
    what its gradient foretells, or where that foretells nothing: the gradient does not describe the loss.
    """

    def of_part(part: slice) -> Tensor:
        x, y = images[part], labels[part]
        _, before, gradient = slope(model, x, partial(margin, labels=y))
        step = (x + NUDGE * gradient.sign()).clamp(0, 1) - x
        foretold = (gradient * step).flatten(1).sum(1)
        with torch.no_grad():
            change = margin(model(x + step), y) - before
        return ~((change - foretold).abs() < 0.5 * foretold)  # also true for NaN and where nothing is foretold

    with eval_mode(model):
        return torch.cat(spread(of_part, len(images), images.device)).double().mean().item()


def rise(accuracies: Sequence[float]) -> float:
    """The most by which an accuracy lies above an earlier one; they should fall with eps, steps or strength."""
    lowest, most = float("inf"), 0.0
    for accuracy in accuracies:
        most, lowest = max(most, accuracy - lowest), min(lowest, accuracy)
    return most


def signs(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    seed: int = 0,
) -> list[Check]:
    """All signs but :func:`black_box`, each as a check that fails where the evaluation is to be doubted.

    Args:
        model: images in [0, 1] to logits [N, C].
        images: [N, ...] in [0, 1], at least one; a few hundred say enough.
        labels: [N] int64, the true classes.
        eps: l-infinity radius that is evaluated, above 0.
        seed: of PGD's starts.

    Raises:
        ValueError: images outside [0, 1], labels that do not fit, eps out of range, or no images.
    """
    check(images, labels, eps)
    if not len(images) or not eps > 0:
        raise ValueError(f"{len(images)} images at eps = {eps}: signs need an image and a radius above 0")
    slack = max(0.02, 2 / len(images))  # the starts are random

    def standing(radius: float, steps: int) -> Tensor:
        return correct(model, pgd(model, images, labels, radius, steps=steps, seed=seed), labels)

    flat, restless, odd = silent(model, images, labels), unsteadiness(model, images), unforeseen(model, images, labels)
    stands = standing(eps, 20)
    by_eps = _shares(standing(eps / 4, 20), standing(eps / 2, 20), stands, standing(min(1.0, 2 * eps), 20))
    by_steps = _shares(standing(eps, 1), standing(eps, 5), stands)
    single = _shares(correct(model, fgsm(model, images, labels, eps), labels), stands)
    # From a random start PGD may find a slope all the same; FGSM, which starts at the image, cannot.
    quiet, hidden = _shares(flat, flat & stands)
    left = withstand(model, images, labels, EVERYTHING, steps=20, seed=seed).double().mean().item()
    return [
        Check(
            "the loss has gradients",
            quiet <= 0.01,
            f"none on {100 * quiet:.1f} % of the images (limit 1 %); "
            f"{100 * hidden:.1f} % have none and stand under PGD",
        ),
        Check(
            "the model answers twice the same",
            restless <= 1e-4,
            f"logits differ by {restless:.1e} of their spread (limit 1e-4)",
        ),
        Check("the outputs are not probabilities", not probabilities(model, images), "attacks need logits"),
        Check(
            "gradients foretell the loss", odd <= 0.25, f"they do not on {100 * odd:.1f} % of the images (limit 25 %)"
        ),
        Check("accuracy does not rise with eps", rise(by_eps) <= slack, _line(by_eps, slack)),
        Check("accuracy does not rise with steps", rise(by_steps) <= slack, _line(by_steps, slack)),
        Check("PGD is not weaker than FGSM", rise(single) <= slack, _line(single, slack)),
        Check(f"at eps {EVERYTHING:g} hardly anything stands", left <= 0.03, f"{100 * left:.1f} % left (limit 3 %)"),
    ]


def black_box(alone: Mapping[float, float], points: int) -> Check:
    """The sign that images fell to Square, which asks for no gradients, and to none of the attacks before it.

    Args:
        alone: by eps, the share of the images that did.
        points: how many images there are.
    """
    eps, most = max(alone.items(), key=lambda pair: pair[1])
    limit = max(0.005, 2 / points)
    detail = f"{100 * most:.1f} % fell to Square alone{f', at eps {eps:g}' if most else ''} (limit {100 * limit:.3g} %)"
    return Check("Square adds nothing to the gradient attacks", most <= limit, detail)


def _shares(*found: Tensor) -> list[float]:
    return [each.double().mean().item() for each in found]


def _line(accuracies: Sequence[float], slack: float) -> str:
    return f"accuracy {', '.join(f'{100 * a:.1f}' for a in accuracies)} % (limit: {100 * slack:.3g} points more)"
