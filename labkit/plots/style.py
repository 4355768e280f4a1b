"""One look for every figure: colour-blind safe, one colour a model everywhere, readable in grey."""

from __future__ import annotations

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The first six after Okabe and Ito (2008), told apart under all common colour-vision deficiencies. No palette does that
# for eleven: the others differ in lightness, and markers tell them too.
COLOURS = {
    "standard": "#0072B2",
    "pgd": "#D55E00",
    "dp": "#009E73",
    "gmm": "#CC79A7",
    "cvae": "#E69F00",
    "trades": "#56B4E9",
    "fgsm": "#B2A800",
    "ibp": "#5B3A8C",
    "mtl_ibp": "#AA0055",
    "dp_pgd": "#7A3B2E",
    "scattering": "#8C6D1F",
    "chance": "#777777",
}
MARKERS = {
    "standard": "o",
    "pgd": "s",
    "dp": "^",
    "gmm": "D",
    "cvae": "P",
    "trades": "v",
    "fgsm": "*",
    "ibp": "h",
    "mtl_ibp": "p",
    "dp_pgd": "<",
    "scattering": ">",
}
NAMES = {
    "standard": "Standard",
    "pgd": "PGD-trained",
    "dp": "DP-SGD",
    "gmm": "Gaussian mixture",
    "cvae": "CVAE",
    "trades": "TRADES",
    "fgsm": "FGSM-trained",
    "ibp": "Interval bounds",
    "mtl_ibp": "MTL-IBP",
    "dp_pgd": "DP-SGD with PGD",
    "scattering": "DP-SGD on scattering features",
}

ATTACK_NAMES = {  # by the name that rows carry
    "fgsm": "FGSM",
    "pgd": "PGD",
    "pgd_strong": "strong PGD",
    "autoattack": "AutoAttack",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
    "threshold": "correctness",
    "loss": "loss threshold",
    "learned": "learned attacker",
    "calibrated": "loss less difficulty",
    "lira_offline": "LiRA, offline",
    "lira": "LiRA",
    "rmia": "RMIA",
}


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 6.0, height: float = 3.8, **kwargs: object):
    """A figure and its axes, in the common style, outside pyplot (nothing is shown twice, nothing leaks).

    Args:
        columns, rows: grid of axes; ``width`` and ``height`` are inches for one of them.
        kwargs: go to ``Figure.subplots`` (``sharey=True``, ``squeeze=False``, ...).
    """
    with sns.axes_style("whitegrid", {"grid.color": "#e4e4e4", "axes.edgecolor": "#555555"}):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, **kwargs)
    return figure, axes


def tidy(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label the axes (with units) and take away the frame's upper and right line."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def label(model: str, train_eps: float | None = None) -> str:
    """A model's name; of a defence against one radius, with the radius."""
    return NAMES[model] if train_eps is None else f"{NAMES[model]} ({train_eps:g})"


def line(train_eps: float | None) -> str | tuple[int, tuple[int, ...]]:
    """A line style: solid where there is no single radius, and dashes that grow with it."""
    if train_eps is None:
        return "-"
    return (0, (2 + round(30 * train_eps), 2))
