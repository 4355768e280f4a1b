"""The trade-off: utility against robustness and against leakage, a point a model, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from labkit.membership import HEADLINE
from labkit.plots.style import ATTACKS, COLOURS, MARKERS, NAMES, new_figure, tidy
from labkit.results import find


def tradeoff(rows: Sequence[Mapping[str, Any]], eps: float) -> Figure:
    """Two panels over the same clean accuracy: robust accuracy at ``eps``, and the AUC of membership inference.

    Args:
        rows: as dicts; of each model one ``accuracy``, one ``robust_accuracy``, one ``mia_auc``; and of the controls of
            some (``control_of``) the same with ``control_`` before it. These are drawn hollow.
    """
    figure, (left, right) = new_figure(2, width=5.4, height=4.2)
    axes = ((left, "robust_accuracy", 100), (right, "mia_auc", 1))
    for model in dict.fromkeys(r["model"] for r in rows):
        x = find(rows, model=model, metric="accuracy")[-1]
        for ax, metric, scale in axes:
            y = find(rows, model=model, metric=metric)[-1]
            ax.errorbar(
                100 * x["value"], scale * y["value"], xerr=_arms(x, 100), yerr=_arms(y, scale), capsize=2, ms=8,
                color=COLOURS[model], marker=MARKERS[model], ls="", label=NAMES[model],
            )  # fmt: skip
            ax.annotate(NAMES[model], (100 * x["value"], scale * y["value"]), xytext=(7, 6), fontsize=9,
                        textcoords="offset points", color=COLOURS[model], fontweight="bold")  # fmt: skip
    for x in find(rows, metric="control_accuracy"):
        for ax, metric, scale in axes:
            y = find(rows, metric=f"control_{metric}", control_of=x["control_of"])[-1]
            ax.errorbar(
                100 * x["value"], scale * y["value"], xerr=_arms(x, 100), yerr=_arms(y, scale), capsize=2, ms=6,
                color=COLOURS["standard"], marker=MARKERS["standard"], mfc="white", ls="",
            )  # fmt: skip
            ax.annotate(
                f"as long as {NAMES[x['control_of']]}", (100 * x["value"], scale * y["value"]), xytext=(-11, -3),
                textcoords="offset points", color=COLOURS["standard"], fontsize=8, ha="right",
            )  # fmt: skip
    right.axhline(0.5, color=COLOURS["chance"], ls=":", lw=1)
    right.annotate("guessing", (0.01, 0.5), xycoords=("axes fraction", "data"), xytext=(0, 3),
                   textcoords="offset points", color=COLOURS["chance"], fontsize=8)  # fmt: skip
    for ax in (left, right):
        ax.margins(x=0.22, y=0.15)
    left.set_ylim(bottom=min(0, left.get_ylim()[0]))
    tidy(left, x="clean accuracy (%)", y=f"accuracy under attack, eps {eps:g} (%)", title="Robustness (up is better)")
    tidy(right, x="clean accuracy (%)", y=f"AUC of {ATTACKS[HEADLINE]}", title="Leakage (down is better)")
    return figure


def _arms(r: Mapping[str, Any], scale: float) -> list[list[float]]:
    return [[scale * (r["value"] - r["low"])], [scale * (r["high"] - r["value"])]]
