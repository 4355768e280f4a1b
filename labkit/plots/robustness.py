"""Figures of the robustness chapter: accuracy against eps, and adversarial images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from labkit.plots.style import COLOURS, MARKERS, NAMES, new_figure, tidy
from labkit.results import find


def against_eps(rows: Sequence[Mapping[str, Any]], attacks: Mapping[str, str]) -> Figure:
    """Robust accuracy against eps, a panel an attack, a line a model, with 95 % intervals.

    Args:
        rows: as dicts; ``robust_accuracy`` of the attacks, and ``accuracy`` for eps 0.
        attacks: name in the rows -> title of the panel.
    """
    figure, axes = new_figure(len(attacks), width=5, squeeze=False, sharey=True)
    models = list(dict.fromkeys(r["model"] for r in rows))
    for ax, (attack, title) in zip(axes[0], attacks.items(), strict=True):
        for model in models:
            points = [{**r, "eps": 0.0} for r in find(rows, model=model, metric="accuracy")][:1]
            points += find(rows, model=model, metric="robust_accuracy", attack=attack)
            value = [100 * r["value"] for r in points]
            below = [100 * (r["value"] - r["low"]) for r in points]
            above = [100 * (r["high"] - r["value"]) for r in points]
            ax.errorbar(
                [r["eps"] for r in points], value, yerr=[below, above], capsize=3, label=NAMES[model],
                color=COLOURS[model], marker=MARKERS[model],
            )  # fmt: skip
        ax.axhline(10, color=COLOURS["chance"], ls=":", lw=1)
        ax.text(0, 11.5, "guessing", color=COLOURS["chance"], fontsize=8)
        ax.set_ylim(-2, 100)
        tidy(ax, x="eps (l-infinity, pixels in [0, 1])", y="accuracy (%)" if ax is axes[0][0] else "", title=title)
    axes[0][0].legend(frameon=False)
    return figure


def picture_grid(
    images: Tensor, attacked: Mapping[str, Tensor], said: Mapping[str, Sequence[str]], clean: Sequence[str], eps: float
) -> Figure:
    """Image, perturbation and adversarial image, with predictions.

    Args:
        images: [K, 1, 28, 28], clean.
        attacked: model -> [K, 1, 28, 28]; each model is attacked on its own.
        said: model -> K predicted class names on its attacked images.
        clean: K true class names.
        eps: radius; the perturbation's colours run from -eps to +eps.
    """
    k = len(images)
    figure, axes = new_figure(k, 1 + 2 * len(attacked), width=1.25, height=1.42, squeeze=False)
    for column in range(k):
        axes[0][column].imshow(images[column, 0], cmap="gray", vmin=0, vmax=1)
        axes[0][column].set_title(clean[column], fontsize=8)
        for index, (model, x) in enumerate(attacked.items()):
            change, image = axes[1 + 2 * index][column], axes[2 + 2 * index][column]
            change.imshow(x[column, 0] - images[column, 0], cmap="PuOr", vmin=-eps, vmax=eps)
            image.imshow(x[column, 0], cmap="gray", vmin=0, vmax=1)
            wrong = said[model][column] != clean[column]
            image.set_title(said[model][column], fontsize=8, color="#c62828" if wrong else "#2e7d32")
    names = ["image"]
    for model in attacked:
        names += [f"{NAMES[model]}:\nperturbation", f"{NAMES[model]}:\nattacked"]
    for label, row in zip(names, axes, strict=True):
        row[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
    return figure
