"""Figures of the utility chapter: learning curves and confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from labkit.plots.style import COLOURS, MARKERS, NAMES, new_figure, tidy
from labkit.training.ensemble import Progress


def learning_curves(histories: Mapping[str, Sequence[Progress]]) -> Figure:
    """Test accuracy and loss against epoch, a line a regime; dashed: on the training images."""
    figure, (left, right) = new_figure(2)
    for regime, history in histories.items():
        epochs = [p.epoch for p in history]
        style = {"color": COLOURS[regime], "marker": MARKERS[regime], "markersize": 4}
        left.plot(epochs, [100 * p.test_accuracy for p in history], label=NAMES[regime], **style)
        left.plot(epochs, [100 * p.train_accuracy for p in history], color=COLOURS[regime], ls="--", lw=1)
        right.plot(epochs, [p.test_loss for p in history], **style)
        right.plot(epochs, [p.train_loss for p in history], color=COLOURS[regime], ls="--", lw=1)
    left.plot([], [], color="#555555", ls="--", lw=1, label="(on training images)")
    left.legend(frameon=False)
    tidy(left, x="epoch", y="accuracy (%)", title="Accuracy")
    tidy(right, x="epoch", y="cross-entropy (nats)", title="Loss")
    return figure


def confusion(matrices: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """Confusion matrices [C, C] of counts, a panel a regime: true class down, predicted across, % of the true class."""
    figure, axes = new_figure(len(matrices), width=4.4, height=4.2, squeeze=False)
    for ax, (regime, counts) in zip(axes[0], matrices.items(), strict=True):
        share = 100 * counts.double() / counts.sum(1, keepdim=True).clamp(min=1)  # [C, C]
        labels = np.vectorize(lambda v: f"{v:.0f}" if v >= 0.5 else "")(share.numpy())
        first = ax is axes[0][0]
        sns.heatmap(
            share.numpy(), ax=ax, vmin=0, vmax=100, cmap="Blues", cbar=False, square=True, annot=labels, fmt="",
            annot_kws={"size": 7}, xticklabels=list(classes), yticklabels=list(classes) if first else False,
        )  # fmt: skip
        ax.tick_params(labelsize=8)
        tidy(ax, x="predicted", y="true" if first else "", title=f"{NAMES[regime]} (% of true class)")
    return figure
