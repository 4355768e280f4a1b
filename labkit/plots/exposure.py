"""Figures of who is exposed: the images whose membership shows most, and how differently models expose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from labkit.plots.style import COLOURS, NAMES, new_figure


def most_exposed(
    images: Tensor, order: Mapping[str, Tensor], names: Sequence[str], values: Mapping[str, Tensor]
) -> Figure:
    """The images whose membership shows most, a row a model.

    Args:
        images: [N, 1, 28, 28] in [0, 1].
        order: model -> indices of the images to draw, the most exposed first.
        names: class name of each image, N.
        values: model -> exposure [N], in standard deviations.
    """
    k = min(len(chosen) for chosen in order.values())
    figure, axes = new_figure(k, len(order), width=1.2, height=1.55, squeeze=False)
    for row, (model, chosen) in zip(axes, order.items(), strict=True):
        for ax, index in zip(row, chosen.tolist(), strict=False):
            ax.imshow(images[index, 0], cmap="gray", vmin=0, vmax=1)
            ax.set_title(f"{names[index]}\n{values[model][index]:.2f}", fontsize=8, color=COLOURS[model])
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
        row[0].set_ylabel(NAMES[model], fontsize=8)
    return figure
