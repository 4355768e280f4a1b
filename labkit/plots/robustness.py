"""Figures of the robustness chapter: accuracy against radius, against steps, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from labkit.plots.style import COLOURS, MARKERS, label, line, new_figure, tidy
from labkit.published import Published
from labkit.results import find

Rows = Sequence[Mapping[str, Any]]


def contenders(rows: Rows) -> list[tuple[str, float | None]]:
    """Model and radius trained against (None where there is no single one) of all rows, in their order."""
    return list(dict.fromkeys((r["model"], r.get("train_eps")) for r in rows))


def against_eps(rows: Rows, attacks: Mapping[str, str], published: Mapping[str, Sequence[Published]]) -> Figure:
    """Robust accuracy against eps, a panel an attack, a line a model, with 95 % intervals.

    Args:
        rows: as dicts; ``robust_accuracy`` of the attacks, and ``accuracy`` for eps 0.
        attacks: name in the rows -> title of the panel.
        published: attack -> what is drawn into its panel.
    """
    columns = min(2, len(attacks))
    figure, axes = new_figure(
        columns, -(-len(attacks) // columns), width=4.6, height=3.9, squeeze=False, sharey=True, sharex=True
    )
    for ax in axes.flat[len(attacks) :]:
        ax.set_visible(False)
    for ax, (attack, title) in zip(axes.flat, attacks.items(), strict=False):
        for model, radius in contenders(rows):
            measured = find(rows, model=model, train_eps=radius, metric="robust_accuracy", attack=attack)
            if measured:
                _errorbar(ax, _untouched(rows, measured[0]) + measured, "eps", model, radius)
        for point in published.get(attack, ()):
            _cross(ax, point, point.eps)
        ax.axhline(10, color=COLOURS["chance"], ls=":", lw=1)
        ax.text(0, 11.5, "guessing", color=COLOURS["chance"], fontsize=8)
        ax.set_ylim(-2, 100)
        ax.tick_params(labelbottom=True)
        title = f"{title}, {_images(find(rows, metric='robust_accuracy', attack=attack))}"
        tidy(ax, x="eps (l-infinity, pixels in [0, 1])", y="accuracy (%)" if ax in axes[:, 0] else "", title=title)
    _legend_below(figure, axes[0][0])
    return figure


def against_steps(rows: Rows, eps: float) -> Figure:
    """Accuracy against the number of PGD steps at one radius, a line a model.

    Args:
        rows: as dicts; ``robust_accuracy`` of attack ``pgd_by_steps`` with ``steps``.
        eps: the radius.
    """
    figure, ax = new_figure(width=7, height=4.2)
    measured = find(rows, attack="pgd_by_steps", eps=eps)
    for model, radius in contenders(measured):
        _errorbar(ax, find(measured, model=model, train_eps=radius), "steps", model, radius)
    ax.set_xscale("log")
    ax.set_ylim(-2, 100)
    ticks = sorted({r["steps"] for r in measured})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    tidy(ax, x=f"PGD steps at eps {eps:g}", y="accuracy (%)")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)
    return figure


def price(rows: Rows, attack: str, eps: float, published: Sequence[Published] = ()) -> Figure:
    """What robustness costs: accuracy under attack against clean accuracy, and against training time.

    Args:
        rows: as dicts; ``robust_accuracy``, ``accuracy`` and ``train_seconds`` of each model.
            Clean accuracy is that on the most images.
        attack, eps: what robust accuracy is under.
        published: drawn into the left panel, a cross with the attack's name, where they have a clean accuracy at this
            radius; of one model under several attacks the lowest.
    """
    figure, (left, right) = new_figure(2, width=5.6, height=4.4, sharey=True)
    drawn: dict[str, list[Mapping[str, Any]]] = {"clean": [], "robust": []}
    for model, radius in contenders(rows):
        robust = find(rows, model=model, train_eps=radius, metric="robust_accuracy", attack=attack, eps=eps)
        untouched = find(rows, model=model, train_eps=radius, metric="accuracy", attack="none")
        clean = sorted(untouched, key=lambda r: -r["n"])[:1]
        seconds = find(rows, model=model, train_eps=radius, metric="train_seconds")
        for ax, across, scale in ((left, clean, 100), (right, seconds, 1)):
            if robust and across:
                y = 100 * robust[0]["value"]
                span = [[y - 100 * robust[0]["low"]], [100 * robust[0]["high"] - y]]
                style = {"color": COLOURS[model], "marker": MARKERS[model], "ls": "", "capsize": 3}
                style["markerfacecolor"] = COLOURS[model] if radius is None else "white"
                x, low, high = (across[0][end] and scale * across[0][end] for end in ("value", "low", "high"))
                wide = None if low is None else [[x - low], [high - x]]
                ax.errorbar(x, y, yerr=span, xerr=wide, label=label(model, radius), **style)
        if robust and clean:
            drawn["clean"].append(clean[0])
            drawn["robust"].append(robust[0])
    there = sorted((p for p in published if p.eps == eps and p.clean is not None), key=lambda p: -p.value)
    for point in {(p.source, p.model): p for p in there}.values():
        _cross(left, point, 100 * point.clean)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())  # its labels would run into one another
    left.margins(x=0.2)
    right.margins(x=0.25)
    left.set_ylim(-2, 100)
    under = f"accuracy under attack, eps {eps:g} (%), {_images(drawn['robust'])}"
    tidy(left, x=f"clean accuracy (%), {_images(drawn['clean'])}", y=under, title="Price in clean accuracy")
    tidy(right, x="training time of one model (s; on a CPU: times cores)", y="", title="Price in time")
    return figure


def overfitting(histories: Mapping[tuple[str, float], Sequence[Any]]) -> Figure:
    """Accuracy on images trained on, and clean and robust accuracy on validation images, after every epoch.

    Args:
        histories: (model, radius) -> progress of one model, with validation figures; the kept epoch is marked.
    """
    columns = min(3, len(histories))
    figure, axes = new_figure(columns, -(-len(histories) // columns), width=3.4, height=3.2, squeeze=False, sharey=True)
    for ax in axes.flat[len(histories) :]:
        ax.set_visible(False)
    for ax, ((model, radius), history) in zip(axes.flat, histories.items(), strict=False):
        epochs = [p.epoch for p in history]
        colour = COLOURS[model]
        robust = [100 * p.validation_robust for p in history]
        ax.plot(epochs, [100 * p.train_accuracy for p in history], ":", color=colour, label="trained on, clean")
        ax.plot(epochs, [100 * p.validation_accuracy for p in history], "--", color=colour, label="validation, clean")
        ax.plot(epochs, robust, "-", color=colour, label="validation, every step of PGD-10")
        best = max(range(len(robust)), key=robust.__getitem__)
        ax.plot(epochs[best], robust[best], "o", color=colour, ms=7, markerfacecolor="white", label="highest")
        tidy(ax, x="epoch", y="accuracy (%)" if ax in axes[:, 0] else "", title=label(model, radius))
        ax.legend(frameon=False, fontsize=8)
    return figure


def _images(rows: Rows) -> str:
    """How many images the rows rest on."""
    n = sorted({r["n"] for r in rows})
    return f"{' or '.join(f'{count:,}' for count in n)} images"


def _cross(ax: Axes, point: Published, x: float) -> None:
    """A published figure, with the attack that it is of."""
    at = (x, 100 * point.value)
    ax.plot(*at, "x", color=COLOURS[point.model], ms=8, mew=2, zorder=5)
    ax.annotate(point.attack, at, xytext=(5, 4), textcoords="offset points", fontsize=7, color=COLOURS["chance"])


def _untouched(rows: Rows, like: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The accuracy at eps 0 of the same model, and on as many images of as many models, as a row under attack."""
    clean = find(rows, model=like["model"], train_eps=like.get("train_eps"), metric="accuracy", attack="none")
    return [{**r, "eps": 0.0} for r in clean if (r["n"], r["models"]) == (like["n"], like["models"])][:1]


def _errorbar(ax: Axes, points: Rows, across: str, model: str, radius: float | None) -> None:
    value = [100 * r["value"] for r in points]
    below = [100 * (r["value"] - r["low"]) for r in points]
    above = [100 * (r["high"] - r["value"]) for r in points]
    ax.errorbar(
        [r[across] for r in points], value, yerr=[below, above], capsize=2, lw=1.4, ms=5, label=label(model, radius),
        color=COLOURS[model], marker=MARKERS[model], ls=line(radius),
    )  # fmt: skip


def _legend_below(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3.5
    )
