"""Figures of the privacy chapter: ROC curves on log-log axes, and leakage side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from labkit.membership import HEADLINE, Audit, Chance, dp_region
from labkit.plots.style import ATTACK_NAMES, COLOURS, MARKERS, NAMES, new_figure, tidy
from labkit.results import find

BROKEN = "#B00020"  # what an audit shows to be false
_LINES = {
    "loss": ":",
    "learned": (0, (8, 2, 1, 2, 1, 2)),
    "calibrated": "-.",
    "lira_offline": (0, (2, 1)),
    "lira": (0, (6, 2)),
    "rmia": "-",
}


def roc_curves(
    audits: Mapping[str, Mapping[str, Audit]],
    guarantees: Mapping[str, Sequence[tuple[float, float]]],
    least: Mapping[str, Sequence[Chance]],
) -> Figure:
    """ROC curves, a panel a regime, averaged over the targets at each false-positive rate.

    Args:
        audits: regime -> attack -> audit.
        guarantees: regime -> pairs (epsilon, delta): the area that they forbid is shaded.
        least: regime -> the smallest rates that would be told from guessing four times in five.
    """
    figure, axes = new_figure(len(audits), width=4.0, height=4.2, squeeze=False, sharey=True)
    smallest = 1 / max(a.scores.shape[1] for attacks in audits.values() for a in attacks.values())
    grid = np.geomspace(smallest, 1, 200)  # false-positive rates
    for ax, (regime, attacks) in zip(axes[0], audits.items(), strict=True):
        for name, audit in attacks.items():
            label = ATTACK_NAMES[name]
            if name == "threshold":  # it says yes or no: one point, and nothing in between
                point = np.mean([(r.fpr[1], r.tpr[1]) for r in audit.rocs], axis=0)
                ax.plot(*point, ls="", marker="x", color=COLOURS[regime], label=label)
                continue
            tpr = np.mean([_steps(r.fpr, r.tpr, grid) for r in audit.rocs], axis=0)
            strong = name == HEADLINE
            ax.plot(grid, tpr, ls=_LINES[name], lw=1 + strong, color=COLOURS[regime], alpha=1 if strong else 0.75,
                    label=label)  # fmt: skip
        ax.plot(grid, grid, color=COLOURS["chance"], lw=1, label="guessing")
        ax.plot(
            [c.fpr for c in least[regime]], [c.tpr for c in least[regime]], ls="", marker="v", ms=6, zorder=3,
            color="#222222", markerfacecolor="white", label="told from it 4 times in 5",
        )  # fmt: skip
        if regime in guarantees:
            allowed = dp_region(grid, guarantees[regime])
            ax.plot(grid, allowed, color="#222222", lw=1.2, label="most that the proof allows")
            ax.fill_between(grid, allowed, 1, where=allowed < 1, color="#222222", alpha=0.12, lw=0)
        ax.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1))
        # On white: the curves of a regime that leaks nothing run below it.
        ax.legend(framealpha=1, edgecolor="none", fontsize=7.5, loc="lower right", handlelength=3.2)
        first = ax is axes[0][0]
        tidy(ax, x="false-positive rate", y="true-positive rate" if first else "", title=NAMES[regime])
    return figure


def _steps(fpr: np.ndarray, tpr: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Highest TPR at a false-positive rate of at most each grid value: the curve as steps."""
    return tpr[np.searchsorted(fpr, grid, side="right") - 1]


def leakage_bars(rows: Sequence[Mapping[str, Any]], least: Mapping[str, float]) -> Figure:
    """AUC of every attack on every regime, as points with 95 % intervals around the line of guessing.

    Args:
        rows: of metric ``mia_auc``.
        least: regime -> the smallest AUC that an attack with shadows would tell from guessing four times in five.
    """
    figure, ax = new_figure(width=9, height=3.8)
    regimes = list(dict.fromkeys(r["model"] for r in rows))
    attacks = [a for a in ATTACK_NAMES if find(rows, attack=a, metric="mia_auc")]
    for i, regime in enumerate(regimes):
        for j, attack in enumerate(attacks):
            for r in find(rows, model=regime, attack=attack, metric="mia_auc"):
                ax.errorbar(
                    j + 0.18 * (i - (len(regimes) - 1) / 2), r["value"], capsize=3, marker="o",
                    yerr=[[r["value"] - r["low"]], [r["high"] - r["value"]]], color=COLOURS[regime],
                    label=NAMES[regime] if j == 0 else None,
                )  # fmt: skip
    ax.axhline(0.5, color=COLOURS["chance"], ls=":", lw=1)
    for regime in regimes:
        ax.axhline(least[regime], color=COLOURS[regime], ls="--", lw=0.8, alpha=0.8)
    ax.plot([], [], color="#222222", ls="--", lw=0.8, label="told from guessing 4 times in 5")
    ax.set_xticks(range(len(attacks)), [ATTACK_NAMES[a].replace(" ", "\n", 1) for a in attacks])
    ax.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))  # above: points lie anywhere
    tidy(ax, x="attack", y="AUC (0.5 is guessing)")
    return figure


def growth(rows: Sequence[Mapping[str, Any]], least: float) -> Figure:
    """AUC by the number of shadow models, and by epochs of training, a line an attack, with intervals.

    Args:
        rows: of metric ``mia_auc_by_shadows``, each with ``shadows``, and ``mia_auc_by_epochs``, each with ``epochs``.
        least: the smallest AUC that all shadows would tell from guessing four times in five.
    """
    figure, axes = new_figure(2, width=4.6, height=3.8, sharey=True)
    for ax, by, x in zip(axes, ("shadows", "epochs"), ("shadow models a target", "epochs of training"), strict=True):
        found = find(rows, metric=f"mia_auc_by_{by}")
        for attack in dict.fromkeys(r["attack"] for r in found):
            points = sorted(find(found, attack=attack), key=lambda r: r[by])
            value = np.array([r["value"] for r in points])
            ends = [value - [r["low"] for r in points], np.array([r["high"] for r in points]) - value]
            ax.errorbar(
                [r[by] for r in points], value, yerr=ends, capsize=3, marker="o", ms=4, ls=_LINES[attack],
                color=COLOURS[points[0]["model"]], label=ATTACK_NAMES[attack],
            )  # fmt: skip
        ax.axhline(0.5, color=COLOURS["chance"], ls=":", lw=1)
        ax.axhline(least, color="#222222", ls="--", lw=0.8, label="told from guessing 4 times in 5")
        ax.set_xscale("log", base=2)
        ticks = sorted({r[by] for r in found})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize=8)
        tidy(ax, x=x, y="AUC (0.5 is guessing)" if by == "shadows" else "")
    return figure


def frontier(rows: Sequence[Mapping[str, Any]], anchors: Sequence[tuple[str, float, float]] = ()) -> Figure:
    """Accuracy against the proved epsilon, a line a model, with intervals.

    Args:
        rows: of metric ``accuracy``, each with an ``epsilon``; a model without a colour takes the private one's.
        anchors: published points: (name, epsilon, accuracy).
    """
    figure, ax = new_figure(width=6.4, height=4)
    for style, model in zip(("-", "--", "-.", ":"), dict.fromkeys(r["model"] for r in rows), strict=False):
        points = sorted(find(rows, model=model, metric="accuracy"), key=lambda r: r["epsilon"])
        x, y, low, high = (np.array([r[part] for r in points]) for part in ("epsilon", "value", "low", "high"))
        ax.errorbar(
            x, 100 * y, yerr=100 * np.stack([y - low, high - y]), capsize=3, marker=MARKERS.get(model, "o"), ls=style,
            color=COLOURS.get(model, COLOURS["dp"]), label=NAMES.get(model, model),
        )  # fmt: skip
    for name, epsilon, accuracy in anchors:
        ax.plot(epsilon, 100 * accuracy, ls="", marker="*", ms=9, color=COLOURS["chance"])
        ax.annotate(name.replace(", ", ",\n"), (epsilon, 100 * accuracy), xytext=(6, 4), va="top",
                    textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ticks = {f"{r['epsilon']:.2g}": r["epsilon"] for r in rows}  # those that read alike are one
    ax.set_xticks(list(ticks.values()), list(ticks))
    ax.minorticks_off()
    ax.legend(frameon=False)
    tidy(ax, x=f"proved ε at δ = {rows[0]['delta']:g}", y="accuracy (%)")
    return figure


def sandwich(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The epsilon that is proved, and those that audits demonstrate, a line a model: a sound audit ends to the left.

    Args:
        rows: of metric ``epsilon`` (proved or claimed), and ``epsilon_lower_bound`` with an ``attack`` each. A bound
            that rests on an assumption (``assuming``) is drawn hollow and dotted, and breaks no claim.
    """
    models = list(dict.fromkeys(r["model"] for r in rows))
    audits = list(dict.fromkeys(r["attack"] for r in find(rows, metric="epsilon_lower_bound")))
    figure, ax = new_figure(width=6.8, height=1.2 + 0.75 * len(models))
    for place, model in enumerate(models):
        for r in find(rows, model=model, metric="epsilon"):
            ax.plot([r["value"]] * 2, [place - 0.3, place + 0.3], color="#222222", lw=2)
            for i, audit in enumerate(audits):
                for found in find(rows, model=model, metric="epsilon_lower_bound", attack=audit):
                    given = found.get("assuming")
                    broken = found["value"] > r["value"] and not given
                    colour = BROKEN if broken else COLOURS.get(model.partition(",")[0], COLOURS["dp"])
                    ax.plot(
                        [0, found["value"]], [place + 0.2 * (i - (len(audits) - 1) / 2)] * 2, marker="<o^sv"[1 + i % 4],
                        markevery=[1], color=colour, ls=":" if given else "-",
                        markerfacecolor="white" if given else colour,
                    )  # fmt: skip
    ax.plot([], [], color="#222222", lw=2, label="proved or claimed")
    for i, audit in enumerate(audits):
        given = find(rows, metric="epsilon_lower_bound", attack=audit)[0].get("assuming")
        ax.plot(
            [], [], marker="<o^sv"[1 + i % 4], color=COLOURS["chance"], ls=":" if given else "-",
            markerfacecolor="white" if given else COLOURS["chance"],
            label=f"if {given}" if given else f"demonstrated: {audit}",
        )  # fmt: skip
    ax.plot([], [], color=BROKEN, lw=2, label="breaks the claim")
    ax.set_yticks(range(len(models)), [NAMES.get(m, m) for m in models])
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.set_xlim(left=0)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    tidy(ax, x=f"ε at δ = {rows[0]['delta']:g}", y="")
    return figure
