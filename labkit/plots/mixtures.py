"""Figures of the mixture chapter: EM's progress, the choice of K, and what the components look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from labkit.plots.style import COLOURS, new_figure, tidy
from labkit.results import find

FORMS = {"full": (COLOURS["gmm"], "D"), "diag": (COLOURS["chance"], "o")}
STROKES = ("-", "--", ":", "-.")


def likelihood(history: Sequence[Sequence[float]], classes: Sequence[str]) -> Figure:
    """What the objective of EM has gained in each class since its start, in nats per image."""
    figure, ax = new_figure(width=7.5)
    palette = sns.color_palette("colorblind", 5)
    for index, (name, values) in enumerate(zip(classes, history, strict=True)):
        gains, stroke = [value - values[0] for value in values], ("-", "--", ":")[index // 5 % 3]
        ax.plot(gains, color=palette[index % 5], ls=stroke, label=name)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    tidy(ax, x="EM step", y="gain (nats per image)", title="EM, class by class")
    return figure


def selection(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], test: Mapping[str, Any]) -> Figure:
    """Validation accuracy and BIC against K, a line a covariance and shrinkage.

    Args:
        rows: ``validation_accuracy`` and ``bic`` of every candidate: ``components``, ``covariance`` and ``shrinkage``.
        chosen: the row of the candidate that was chosen. test: its ``accuracy`` on the test images.
    """
    figure, axes = new_figure(2)
    for ax, metric, unit in zip(axes, ("validation_accuracy", "bic"), (100, 1e-3), strict=True):
        tried = find(rows, metric=metric)
        amounts = sorted({r["shrinkage"] for r in tried})
        for covariance, (colour, marker) in FORMS.items():
            for shrinkage, stroke in zip(amounts, STROKES, strict=False):
                line = find(tried, covariance=covariance, shrinkage=shrinkage)
                x, y = [r["components"] for r in line], [unit * r["value"] for r in line]
                ax.plot(x, y, stroke, color=colour, marker=marker, ms=4, label=f"{covariance}, {shrinkage:g}")
        ax.set_xticks(sorted({r["components"] for r in tried}))
    left, right = axes
    left.plot(chosen["components"], 100 * chosen["value"], "o", ms=13, mfc="none", mec="black", label="chosen")
    bounds = [[100 * (test["value"] - test["low"])], [100 * (test["high"] - test["value"])]]
    place = {"color": "black", "fmt": "s", "ms": 5, "capsize": 3}
    left.errorbar([chosen["components"] + 0.25], [100 * test["value"]], bounds, **place, label="test, 95 %")
    left.legend(frameon=False, fontsize=8, title="covariance, shrinkage", title_fontsize=8, ncols=2)
    tidy(left, x="components a class, K", y="accuracy (%)", title="Accuracy on validation")
    tidy(right, x="components a class, K", y="BIC (thousands)", title="BIC, lower is better")
    return figure


def pictures(means: Tensor, samples: Tensor, classes: Sequence[str]) -> Figure:
    """A row a class: the components' means, heaviest first, and draws from the mixture.

    Args:
        means: [C, K, 28, 28] and samples: [C, n, 28, 28]; cut to [0, 1] for the eye.
    """
    height = 0.45 * len(classes)
    widths = [means.shape[1], samples.shape[1]]
    figure, axes = new_figure(2, width=0.24 * sum(widths) + 0.7, height=height, width_ratios=widths)
    for ax, images, title in zip(axes, (means, samples), ("Means", "Samples"), strict=True):
        rows, columns, size, _ = images.shape
        sheet = images.clamp(0, 1).permute(0, 2, 1, 3).reshape(rows * size, columns * size)  # [C * 28, K * 28]
        ax.imshow(sheet.cpu().numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        tidy(ax, x="", y="", title=title)
        ax.spines[:].set_visible(False)
    axes[0].set_yticks([(row + 0.5) * size for row in range(len(classes))], classes, fontsize=8)
    return figure
