"""Figures of the generative chapter: curves, image grids, reconstruction errors and what attacks make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from labkit.membership import Roc
from labkit.plots.style import COLOURS, new_figure, tidy

IN, OUT = COLOURS["cvae"], "#555555"  # trained on, and not


def training_curves(history: Mapping[str, Tensor]) -> Figure:
    """Both terms of the negative ELBO against the epoch, IN and OUT, the BCE above the images' own entropy.

    Args:
        history: ``bce_in``, ``bce_out``, ``kl_in``, ``kl_out``, each [E], and ``entropy_in``, ``entropy_out``, in nats
            an image.
    """
    figure, (left, right) = new_figure(2, width=4.8, height=3.4)
    for part, colour, line in (("in", IN, "-"), ("out", OUT, "--")):
        excess, kl = history[f"bce_{part}"] - history[f"entropy_{part}"], history[f"kl_{part}"]
        epochs = range(1, len(kl) + 1)
        left.plot(epochs, excess, line, color=colour, marker=".", label=part.upper())
        right.plot(epochs, kl, line, color=colour, marker=".", label=part.upper())
    left.set_yscale("log")
    for axis in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        axis(ScalarFormatter())
    left.tick_params(which="minor", labelsize=8)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    tidy(left, x="epoch", y="BCE above the images' entropy, nats", title="Reconstruction (BCE)")
    tidy(right, x="epoch", y="nats an image", title="Regularisation (KL)")
    return figure


def sample_grid(samples: Tensor, classes: Sequence[str]) -> Figure:
    """Samples, a column a class.

    Args:
        samples: [C, K, 1, 28, 28] in [0, 1].
        classes: C names.
    """
    columns, rows = samples.shape[:2]
    figure, ax = new_figure(width=0.95 * columns, height=0.95 * rows + 0.3)
    _mosaic(ax, samples.transpose(0, 1))
    side = 30
    ax.set_xticks([side * i + 15 for i in range(columns)], classes, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    return figure


def reconstructions(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Originals above their reconstructions, a panel a half.

    Args:
        pairs: title -> (images, reconstructions), each [K, 1, 28, 28] in [0, 1].
    """
    count = len(next(iter(pairs.values()))[0])
    figure, axes = new_figure(1, len(pairs), width=0.95 * count, height=2.3, squeeze=False)
    for ax, (title, (images, decoded)) in zip(axes[:, 0], pairs.items(), strict=True):
        _mosaic(ax, [images, decoded])
        ax.set_yticks([15, 45], ["original", "decoded"], fontsize=9)
        ax.tick_params(length=0)
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    return figure


def _mosaic(ax: Axes, rows: Sequence[Tensor] | Tensor) -> None:
    """Rows of images [1, 28, 28] on one axes, a pixel of white around each."""
    tiles = [np.hstack([np.pad(image[0].cpu().numpy(), 1) for image in row]) for row in rows]
    ax.imshow(1 - np.vstack(tiles), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def error_histogram(errors: Tensor, members: Tensor) -> Figure:
    """Densities of the reconstruction error a pixel, IN and OUT, with their means.

    Args:
        errors: [N], mean squared error a pixel; members: bool [N].
    """
    figure, ax = new_figure(width=7, height=3.4)
    bins = np.linspace(0, np.quantile(errors, 0.995), 60)
    for part, label, colour, line in ((members, "IN", IN, "-"), (~members, "OUT", OUT, "--")):
        chosen = errors[part].numpy()
        ax.hist(chosen, bins, density=True, histtype="stepfilled", color=colour, alpha=0.18)
        ax.hist(chosen, bins, density=True, histtype="step", color=colour, lw=1.3, ls=line)
        ax.axvline(chosen.mean(), color=colour, lw=1.5, ls=line, label=f"{label}, mean {chosen.mean():.5f}")
    ax.set_xlim(0, bins[-1])
    ax.legend(frameon=False)
    tidy(ax, x="squared error a pixel of the reconstruction", y="density")
    return figure


def attack_curves(curve: Roc, auc: Mapping[str, Any], sets: Sequence[Mapping[str, Any]]) -> Figure:
    """The attack on single records (ROC) and on sets of records (accuracy against the set's size).

    Args:
        curve: of the single-record attack; ``auc``: its row.
        sets: rows of ``mia_set_accuracy``, with ``set_size``.
    """
    figure, (left, right) = new_figure(2, width=4.8, height=4.0)
    left.plot(curve.fpr, curve.tpr, color=IN, lw=1.8, label=f"AUC {auc['value']:.3f}")
    left.plot([0, 1], [0, 1], ":", color=COLOURS["chance"], label="guessing")
    left.fill_between(curve.fpr, curve.fpr, curve.tpr, color=IN, alpha=0.15, lw=0)
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(frameon=False, loc="lower right")
    tidy(left, x="false-positive rate", y="true-positive rate", title="One image: is it IN?")
    sizes = [r["set_size"] for r in sets]
    right.fill_between(sizes, [r["low"] for r in sets], [r["high"] for r in sets], color=IN, alpha=0.2, lw=0)
    right.plot(sizes, [r["value"] for r in sets], "o-", color=IN, label="attack, 95 % band")
    right.axhline(0.5, ls=":", color=COLOURS["chance"], label="guessing")
    right.set(xscale="log", ylim=(min(0.4, *(r["low"] for r in sets)), 1.02))
    right.set_xticks(sizes, map(str, sizes))
    right.minorticks_off()
    right.legend(frameon=False, loc="upper left")
    tidy(right, x="images in each set", y="right answers", title="Two sets: which is IN?")
    return figure
