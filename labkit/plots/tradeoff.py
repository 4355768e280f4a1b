"""The trade-off: utility against robustness and against leakage, a point a model, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit.membership import HEADLINE
from labkit.plots.style import ATTACK_NAMES, COLOURS, MARKERS, NAMES, new_figure, tidy
from labkit.results import find


def tradeoff(rows: Sequence[Mapping[str, Any]], eps: float) -> Figure:
    """Two panels over the same clean accuracy: robust accuracy at ``eps``, and the AUC of membership inference.

    Args:
        rows: as dicts; of each model one ``accuracy``, one ``robust_accuracy``, one ``mia_auc``; and of the controls of
            some (``control_of``) the same with ``control_`` before it, and whether they are the ``same`` models as the
            standard ones. These are hollow, in the shape of what they are beside.
    """
    figure, (left, right) = new_figure(2, width=5.4, height=4.2)
    models = list(dict.fromkeys(r["model"] for r in rows))
    controls = find(rows, metric="control_accuracy")
    for ax, metric, scale in ((left, "robust_accuracy", 100), (right, "mia_auc", 1)):
        places = {}
        for model in models:
            x, y = (find(rows, model=model, metric=m)[-1] for m in ("accuracy", metric))
            places[model] = _point(ax, x, y, scale, model, marker=MARKERS[model], ms=8)
        for x in controls:
            like = x["control_of"]
            y = find(rows, metric=f"control_{metric}", control_of=like)[-1]
            name = f"{NAMES['standard']}, trained as long as {NAMES[like]}"
            name += " (the same models)" if x["same"] else ""
            _point(ax, x, y, scale, "standard", marker=MARKERS[like], ms=7, mfc="white", label=name)
        ax.margins(x=0.22, y=0.15)
        ax.autoscale_view()  # which is put off otherwise, and places in the picture are asked for
        _name(ax, places)
    if controls:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    right.axhline(0.5, color=COLOURS["chance"], ls=":", lw=1)
    right.annotate("guessing", (0.01, 0.5), xycoords=("axes fraction", "data"), xytext=(0, 3),
                   textcoords="offset points", color=COLOURS["chance"], fontsize=8)  # fmt: skip
    left.set_ylim(bottom=min(0, left.get_ylim()[0]))
    tidy(
        left, x="clean accuracy (%)", y=f"accuracy under strong PGD, eps {eps:g} (%)", title="Robustness (up is better)"
    )
    tidy(right, x="clean accuracy (%)", y=f"AUC of {ATTACK_NAMES[HEADLINE]}", title="Leakage (down is better)")
    return figure


def _point(ax: Axes, x: Mapping, y: Mapping, scale: float, model: str, **look: object) -> tuple[float, float]:
    """Draw one model with its intervals; where it stands."""
    place = 100 * x["value"], scale * y["value"]
    arms = {"xerr": _arms(x, 100), "yerr": _arms(y, scale), "capsize": 2}
    ax.errorbar(*place, **arms, color=COLOURS[model], ls="", **look)
    return place


def _name(ax: Axes, places: Mapping[str, tuple[float, float]]) -> None:
    """A model's name beside its point: above, or below where it would run into the next model's."""
    seen = {model: ax.transAxes.inverted().transform(ax.transData.transform(at)) for model, at in places.items()}
    for model, (x, y) in seen.items():
        width = 0.018 * len(NAMES[model])  # of the panel's
        crowded = any(0 < a - x < width and abs(b - y) < 0.08 for a, b in seen.values())
        ax.annotate(NAMES[model], places[model], xytext=(7, -14 if crowded else 6), textcoords="offset points",
                    fontsize=9, color=COLOURS[model], fontweight="bold")  # fmt: skip


def _arms(r: Mapping[str, Any], scale: float) -> list[list[float]]:
    return [[scale * (r["value"] - r["low"])], [scale * (r["high"] - r["value"])]]
