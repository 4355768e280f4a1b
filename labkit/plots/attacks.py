"""Figures of what attacks do: which image falls to which, how near the boundary is, and how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from labkit.plots.style import COLOURS, NAMES, label, new_figure, tidy
from labkit.results import find

WRONG, STANDS = "#bbbbbb", "#1b1b1b"


def taken(rows: Sequence[Mapping[str, Any]], attacks: Mapping[str, str], eps: float) -> Figure:
    """Which share of the images fell to which attack first: a bar a model.

    Args:
        rows: as dicts; ``taken`` by attack (``none`` for what is wrong anyway, ``stands`` for the rest) at ``eps``.
        attacks: name in the rows -> name to print, in their order.
        eps: radius.
    """
    rows = find(rows, metric="taken", eps=eps)
    bars = list(dict.fromkeys((r["model"], r.get("train_eps")) for r in rows))
    figure, ax = new_figure(width=9, height=0.6 + 0.42 * len(bars))
    shades = sns.color_palette("viridis_r", len(attacks))
    colours = [WRONG, *shades, STANDS]
    names = {"none": "wrong without an attack", **attacks, "stands": "stands"}
    left = np.zeros(len(bars))
    for (attack, name), colour in zip(names.items(), colours, strict=True):
        found = [find(rows, model=m, train_eps=e, attack=attack) for m, e in bars]
        width = np.array([100 * f[0]["value"] if f else 0.0 for f in found])
        ax.barh(range(len(bars)), width, left=left, color=colour, label=name, height=0.7)
        for y, (start, w) in enumerate(zip(left, width, strict=True)):
            if w >= 4:
                dark = colour in (STANDS, *shades[len(shades) // 2 :])
                ax.text(
                    start + w / 2, y, f"{w:.3g}", ha="center", va="center", fontsize=8,
                    color="white" if dark else "black",
                )  # fmt: skip
        left += width
    ax.set_yticks(range(len(bars)), [label(m, e) for m, e in bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    tidy(ax, x=f"share of the test images at eps {eps:g} (%), by the attack that broke them first", y="")
    ax.grid(visible=False)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def distances(found: Mapping[tuple[str, float | None], Tensor], radii: Sequence[float]) -> Figure:
    """How far the decision boundary is from the images that are classified right: a histogram a model.

    Args:
        found: (model, radius trained against) -> l-infinity distances [N], positive; infinite where none was found,
            which counts into the last bar.
        radii: marked.
    """
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure, axes = new_figure(columns, rows, width=3.2, height=2.1, squeeze=False, sharex=True, sharey=True)
    edges = np.linspace(0, 0.5, 26)
    for ax, ((model, radius), values) in zip(axes.flat, found.items(), strict=False):
        counts, _ = np.histogram(values.clamp(max=0.4999).numpy(), bins=edges)
        ax.stairs(100 * counts / max(len(values), 1), edges, color=COLOURS[model], fill=True, alpha=0.75)
        for eps in radii:
            ax.axvline(eps, color=COLOURS["chance"], ls=":", lw=1)
        if len(values):
            ax.axvline(min(values.median().item(), 0.4999), color="black", lw=1.2)
        ax.tick_params(labelbottom=True)
        tidy(ax, x="", y="", title=label(model, radius))
    for ax in axes.flat[len(found) :]:
        ax.set_visible(False)
    axes[0][0].set_xlim(0, 0.5)
    figure.supxlabel(
        "l-infinity distance (pixels in [0, 1]) to the nearest image found on the other side; line: median,\n"
        f"dotted: radii attacked; last bar: all from {edges[-2]:.2g} on",
        fontsize=10,
    )
    figure.supylabel("share of images (%)", fontsize=10)
    return figure


def by_class(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], eps: float) -> Figure:
    """Accuracy under attack by true class: models down, classes and their number of images across.

    Args:
        rows: as dicts; ``class_robust_accuracy`` with ``true_class``. A class that is not there stays blank.
        classes: names, by label.
        eps: radius.
    """
    rows = find(rows, metric="class_robust_accuracy", eps=eps)
    lines = list(dict.fromkeys((r["model"], r.get("train_eps")) for r in rows))
    grid = np.full((len(lines), len(classes)), np.nan)
    for i, (model, radius) in enumerate(lines):
        for j, name in enumerate(classes):
            found = find(rows, model=model, train_eps=radius, true_class=name)
            grid[i, j] = 100 * found[0]["value"] if found else np.nan
    n = {name: max((r["n"] for r in find(rows, true_class=name)), default=0) for name in classes}  # images
    figure, ax = new_figure(width=9, height=1.3 + 0.38 * len(lines))
    sns.heatmap(
        grid, ax=ax, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", annot_kws={"fontsize": 8},
        xticklabels=[f"{name} ({n[name]})" for name in classes], yticklabels=[label(m, e) for m, e in lines],
        cbar_kws={"label": f"accuracy at eps {eps:g} (%)"},
    )  # fmt: skip
    for text in ax.texts:
        text.set_color("white" if float(text.get_text()) < 55 else "black")  # where cividis is dark
    ax.set_xticklabels(ax.get_xticklabels(), rotation=30, ha="right")
    ax.grid(visible=False)
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
            answer, colour = (f"✗ {said[model][column]}", "#D55E00") if wrong else (said[model][column], "black")
            image.set_title(answer, fontsize=8, color=colour)
    names = ["image"]
    for model in attacked:
        names += [f"{NAMES[model]}:\nperturbation", f"{NAMES[model]}:\nattacked"]
    for text, row in zip(names, axes, strict=True):
        row[0].set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
    return figure
