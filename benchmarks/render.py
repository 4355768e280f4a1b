"""RESULTS.md and the figure of growth, from what the benchmarks measured."""

from __future__ import annotations

import importlib
import inspect
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from benchmarks import front, optimisers, reached
from benchmarks.protocol import RESULTS, slug

BENCHMARKS = {  # by name: the function that measures, in the order of the page
    "epoch": "training:epoch",
    "accuracy": "training:accuracy",
    "shadows": "training:shadows",
    "pgd": "evasion:evasion",
    "conformance": "conformance:conformance",
    "dpsgd": "private:dpsgd",
    "mixture": "mixtures:mixture",
    "report": "report:report",
    "ways": "ways:ways",
    "limit": "ways:limit",
    "scaling": "training:scaling",
    "speedrun": "speedrun:speedrun",
}
TARGETS = {  # to reach on two cores, on one GPU
    "epoch": (2.5, 10),
    "accuracy": (8, 20),
    "shadows": (8, 30),
    "pgd": (2.0, 3),
    "dpsgd": (1.7, 3),
    "mixture": (3.3, 20),
    "report": (5, 10),
}
COMMENTS = {  # what the figures mean, and what stands in the way of more
    "epoch": "Both train the same small network, and nearly all of labkit's step is spent in its convolutions (see "
    "`limit`): what can be saved is what stands around them, which is little for a network chosen to be cheap. A "
    "processor's matrix units (AMX) stay mostly idle: the layers and the pieces of a batch are too small to fill them. "
    "Two cores share a batch in halves: of a larger batch each computes more at once, with less to wait for. On a GPU "
    "the plain loop waits for its images, and for each step's launches and its `.item()`; labkit's images lie there, "
    "and its step is one graph, whose kernels are small.",
    "shadows": "On a GPU the models of a wave have a stream each in one captured step. Batches of small models make "
    "small kernels: what `limit` says of the matrix units holds for 64 of them too.",
    "pgd": "On the standard model nearly every point falls within a few steps, and `withstand` leaves it alone from "
    "there on. On the PGD-trained one most points stand to the end, and a point that stands needs every step in "
    "float32 from any attack. So the ratio is bounded there by the share of points that fall; a cheap bf16 attack "
    "before the float32 one was tried and did not help there: it breaks what float32 breaks as quickly. On a GPU a "
    "step of so few images is mostly launches, whoever takes it, and to look after every step who still stands costs "
    "more than it saves.",
    "dpsgd": "Per-example gradients are matrix products, or norms from Gram matrices; the network's pooling and tanh, "
    "which Opacus computes too, are most of what is left on a CPU. On a GPU labkit's step is one graph.",
    "accuracy": "A network with few operations, Muon (both have tables below), an engine that wastes little around "
    "them, and a schedule that ends where it should; what took 4 epochs was trained by AdamW. What stands in the way "
    "of more: the predecessor's large network learns more from an image, and needs fewer passes over them.",
    "mixture": "Full covariances, which the report's classifiers have, are matrix products: of a class a core on a "
    "CPU, of all classes at once on a GPU. Diagonal ones do little with a point: few points are bound by what a step "
    "costs anyway, many by memory, a pass over them per product. scikit-learn computes on the CPU, beside a GPU too. "
    "(The Xeon's and the H200's diagonal figures are older than what was gained by keeping each point's squares.)",
    "conformance": "Starts and squares are drawn, by each library from its own stream, so two of them differ by a "
    "few images where they are equally strong.",
    "ways": "On a CPU a core a model wins, or is level where a step is long: cores that share a small step wait for "
    "one another. Stacking, which saves launches on a GPU, turns convolutions into products that fit the caches worse, "
    "and compiling takes longer than it saves.",
    "report": "An estimate from slices, not a run: the plain loops would take too long. What was counted is listed for "
    "each machine; where AutoAttack and linear classifiers are not, they count as nothing there. On a GPU six kernels, "
    "one after another, start, import and open the data (the first code cell of each notebook in `reports/full`): that "
    "alone takes longer than the 30 s that quick should take there, and quick's small models and pieces are launches.",
    "scaling": "Linear in all three, but for what a training costs to begin with.",
}
KINDS = {"cpu": "CPU", "cuda": "GPU"}
PAGE = Path(__file__).parent / "RESULTS.md"

HEAD = """# labkit beside its peers

How often labkit does a piece of work in the time in which a peer does it once. Both work in one run, in turn (A B A B);
a ratio is the median over turns, with the least and the greatest in brackets. `make bench` measures them anew and
writes this page (the tables at its end are made by commands of their own); no measured number on it was typed. Times
of one machine say little about another's; ratios say more.
"""


def columns() -> dict[str, dict]:
    """What was kept, by machine; where none of a kind was measured, its name stands for it, with nothing."""
    found = {}
    for device, kind in KINDS.items():
        kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{device}-*.json"))]
        found |= {f"{kind}: {_latest(k)['surroundings']['hardware']}": k for k in kept} or {kind: {}}
    return found


def _latest(kept: dict) -> dict:
    return max(kept.values(), key=lambda entry: entry["measured"])


def measure(name: str):
    """The function behind a benchmark's name."""
    module, function = BENCHMARKS[name].split(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)


def page(found: dict[str, dict]) -> str:
    """RESULTS.md from ``{machine: {benchmark: what was kept}}``; see :func:`columns`."""
    parts = [HEAD, *(_surroundings(machine, kept) for machine, kept in found.items())]
    for name in BENCHMARKS:
        parts.append(f"## {name}\n\n{inspect.getdoc(measure(name))}\n")
        there = {machine: kept for machine, kept in found.items() if name in kept}
        rows = _rows(name, there)
        if rows:
            if name in TARGETS:
                parts.append(f"To reach: {TARGETS[name][0]:g}x on two cores, {TARGETS[name][1]:g}x on one GPU.\n")
            head = f"| work | against | {' | '.join(there)} |\n|---|---{'|---' * len(there)}|\n"
            parts.append(head + "\n".join(rows) + "\n")
        parts += [_notes(machine, kept[name]) for machine, kept in there.items()]
        if without := [machine for machine in found if machine not in there]:
            parts.append(f"Not measured: {'; '.join(without)}.\n")
        if there:
            parts.append(f"{COMMENTS[name]}\n" if name in COMMENTS else "")
        if name in TOLD:
            parts += [TOLD[name](machine, kept[name]["facts"]) for machine, kept in there.items()]
    parts += [front.section(), optimisers.section(), reached.section()]
    return "\n".join(part for part in parts if part.strip()).rstrip() + "\n"


def _surroundings(machine: str, kept: dict) -> str:
    if not kept:
        return f"**{machine}: not measured.**\n"
    facts = (f"{k} {v}" for k, v in _latest(kept)["surroundings"].items() if k not in ("hardware", "system"))
    dates = sorted({entry["measured"] for entry in kept.values()})
    return f"**{machine}**: {', '.join(facts)}; {', '.join(dates)}.\n"


def _rows(name: str, found: dict[str, dict]) -> list[str]:
    """A line a piece of work and peer, a cell a machine."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for machine, kept in found.items():
        for r in kept.get(name, {}).get("results", []):
            spread = f" ({min(r['ratios']):.2f} to {max(r['ratios']):.2f})" if len(r["ratios"]) > 1 else ""
            text = f"**{statistics.median(r['ratios']):.2f}x**{spread}, {r['ours']:.3g} s against {r['theirs']:.3g} s"
            cells.setdefault((r["work"], r["peer"]), {})[machine] = text
    return [
        f"| {work} | {peer} | " + " | ".join(at.get(machine, "not measured") for machine in found) + " |"
        for (work, peer), at in cells.items()
    ]


def _notes(machine: str, kept: dict) -> str:
    return _listed(machine, dict.fromkeys(f"{r['work']}: {r['note']}" for r in kept.get("results", [])))


def _listed(machine: str, lines: Iterable[str]) -> str:
    """Lines of one machine, under its name; nothing where there are none."""
    text = "".join(f"- {line}.\n" for line in lines)
    return f"*{machine}*\n\n{text}" if text else ""


def _ways(machine: str, facts: dict) -> str:
    """What `deterministic` costs a GPU."""
    lines = [
        f"{regime} training with `deterministic`: an epoch of {facts['models']} models takes {ratio:.1f} times as long"
        for regime, ratio in facts.get("repeating", {}).items()
    ]
    return _listed(machine, lines)


def _limit(machine: str, facts: dict) -> str:
    shares = ", ".join(f"{100 * share:.0f} % of its {kind} product" for kind, share in facts["share"].items())
    line = (
        f"{facts['images_per_second']:,.0f} images/s of standard training, {facts['mflop_per_image']:.1f} MFLOP an "
        f"image forward and backward: {facts['gflops']:,.0f} GFLOP/s, {shares}"
    )
    return _listed(machine, [line])


def slopes(points: list[list[float]]) -> tuple[float, float, float]:
    """Least-squares line through (images trained on, seconds): images a second, intercept in seconds, and R squared."""
    x, y = np.array(points).T
    slope, intercept = np.polyfit(x, y, 1)
    left = ((y - slope * x - intercept) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return 1 / slope, intercept, 1 - left


def _scaling(machine: str, facts: dict) -> str:
    grown = facts["grown"]
    fits = {what: slopes(points) for what, points in grown.items()}
    lines = [
        f"{what}: {speed:,.0f} images/s and {intercept:.2f} s besides (R² = {fit:.3f})"
        for what, (speed, intercept, fit) in fits.items()
    ]
    drawn = f"scaling-{slug(machine)}.png"
    figure(grown).savefig(RESULTS / drawn, dpi=130)
    alt = "Seconds of training against images trained on, as models, images or epochs grow: three lines"
    return f"{_listed(machine, lines)}\n![{alt}](results/{drawn})\n"


def _speedrun(machine: str, facts: dict) -> str:
    """A line a goal, mean ± standard deviation over seeds: the mean decides."""
    lines = []
    for goal in facts["goals"]:
        taken, reading, accuracy = ([run[k] for run in goal["runs"]] for k in ("seconds", "reading", "accuracy"))
        verdict = "reaches" if statistics.mean(accuracy) >= goal["goal"] else "**misses**"
        there = sum(a >= goal["goal"] for a in accuracy)
        lines.append(
            f"to {100 * goal['goal']:.0f} % in {goal['epochs']} epochs: **{spread(taken)} s**, of which "
            f"{spread(reading)} s are reading and decompressing; accuracy {spread([100 * a for a in accuracy])} %: the "
            f"mean {verdict} the goal; n = {len(accuracy)}, of which {there} reach it"
        )
    own = [f"{k} {v}" for k, v in facts["versions"].items() if v is not None]
    return _listed(machine, lines + ([f"versions: {', '.join(own)}"] if own else []))


# How the facts of a benchmark are told, a machine at a time.
TOLD: dict[str, Callable[[str, dict], str]] = {
    "ways": _ways,
    "limit": _limit,
    "scaling": _scaling,
    "speedrun": _speedrun,
}


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; one value has none."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def figure(grown: dict[str, list[list[float]]]) -> Figure:
    """Seconds against images trained on, one line for what grew."""
    drawing = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = drawing.subplots()
    for (what, points), colour, marker in zip(
        grown.items(), sns.color_palette("colorblind"), ("o", "s", "^"), strict=False
    ):
        x, y = np.array(points).T
        speed, intercept, _ = slopes(points)
        axes.scatter(x / 1000, y, s=22, color=colour, marker=marker, label=f"more {what}")
        ends = np.array([x.min(), x.max()])
        axes.plot(ends / 1000, ends / speed + intercept, color=colour, lw=1)
    axes.set(xlabel="images trained on, thousands (models x images x epochs)", ylabel="seconds", ylim=(0, None))
    axes.legend(frameon=False)
    sns.despine(fig=drawing)
    return drawing


def write() -> None:
    PAGE.write_text(page(columns()))
