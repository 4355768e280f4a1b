"""Compact networks on the front of accuracy against cost: what labkit.networks.CompactCNN was chosen from.

``python -m benchmarks.front`` trains every candidate with labkit's own loop on one core and judges it on training
images that were held out; nothing is looked at on the test set. What ``results/front.json`` already holds is kept, so a
run that was stopped goes on, and more seeds can be added. A figure is drawn beside it. It takes hours, so `make bench`
takes what it left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.protocol import RESULTS
from labkit import data as labdata
from labkit.attacks import correct, fgsm, withstand
from labkit.data import Dataset, Split
from labkit.device import derive, generator, hardware_name
from labkit.params import Params
from labkit.plots.style import COLOURS, MARKERS, new_figure, tidy
from labkit.store import write_whole
from labkit.training import Adversarial, Mean, Recipe
from labkit.training.loop import fit
from labkit.training.regimes import dp
from labkit.training.watch import Network, restored
from labkit.workers import Crew

TRAIN, VALIDATION, ATTACKED = 12_000, 3_000, 1_000  # images
RADII = (0.1, 0.2, 0.3)
TIMED, ROUNDS = 2_048, 5  # images of a timed training, and how often each is timed, in turn
CPU = torch.device("cpu")
RECIPES = {
    "standard": Recipe("standard", Mean(), 10, 128, 3e-3, "adamw"),
    "pgd": Recipe("pgd", Adversarial(Mean(), 0.2, 5, 1.0), 12, 128, 3e-3, "adamw", mirror=True),
    "dp": dp(Params(), TRAIN, Params().dp_epochs),
}


@dataclass(frozen=True)
class Candidate:
    """An architecture in words: a stage each, an activation after each ``conv`` and ``linear``, ten logits at the end.

    ``unshuffle r``: r x r pixels become channels. ``conv c k s``: c channels, kernel k, stride s, padding k // 2.
    ``pool r``: the largest of r x r. ``linear u``: u units.
    """

    stages: str
    activation: type[nn.Module] = nn.ReLU


CHOSEN, STRIDED, PREDECESSOR = "32-64-64", "strided 5x5 stem", "predecessor"
CANDIDATES = {
    STRIDED: Candidate("conv 32 5 2, conv 64 3 2, conv 64 3 2, linear 128"),
    "32-64-64": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2, linear 128"),
    "24-48-48": Candidate("unshuffle 2, conv 24 3 1, conv 48 3 2, conv 48 3 2, linear 128"),
    "32-64-96": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 96 3 2, linear 128"),
    "32-64-128": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 128 3 2, linear 128"),
    "48-96-96": Candidate("unshuffle 2, conv 48 3 1, conv 96 3 2, conv 96 3 2, linear 128"),
    "32-64-64, extra 7x7": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 1, conv 64 3 2, linear 128"),
    "32-64-64, hidden 64": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2, linear 64"),
    "32-64-64, hidden 256": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2, linear 256"),
    "32-64-64, linear head": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2"),
    "32-64-64, GELU": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2, linear 128", nn.GELU),
    "32-64-64, SiLU": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 64 3 2, linear 128", nn.SiLU),
    "4x4 stem 64-64": Candidate("unshuffle 4, conv 64 3 1, conv 64 3 2, linear 128"),
    "4x4 stem 64-64-64": Candidate("unshuffle 4, conv 64 3 1, conv 64 3 1, conv 64 3 2, linear 128"),
    "16-64-64": Candidate("unshuffle 2, conv 16 3 1, conv 64 3 2, conv 64 3 2, linear 128"),
    "24-64-64, GELU": Candidate("unshuffle 2, conv 24 3 1, conv 64 3 2, conv 64 3 2, linear 128", nn.GELU),
    "pooled 32-64-64": Candidate("unshuffle 2, conv 32 3 1, pool 2, conv 64 3 1, pool 2, conv 64 3 1, linear 128"),
    "pooled late 32-64-64": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 1, pool 2, conv 64 3 1, pool 2, linear 128"),
    "strided, pooled 32-64-128": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, conv 128 3 1, pool 2, linear 128"),
    "28x28 16-32-64": Candidate("conv 16 3 1, pool 2, conv 32 3 1, pool 2, conv 64 3 2, linear 128"),
    "7x7 head 32-64": Candidate("unshuffle 2, conv 32 3 1, conv 64 3 2, linear 128"),
    "7x7 head 32-48-48": Candidate("unshuffle 2, conv 32 3 1, conv 48 3 2, conv 48 3 1, linear 128"),
    # Without its dropout, which would draw from the global random state.
    PREDECESSOR: Candidate("conv 32 3 1, conv 64 3 1, pool 2, conv 128 3 1, pool 2, linear 256"),
}


class Classifier(nn.Module):
    """Images [N, 1, 28, 28] in [0, 1] to logits [N, 10], as a candidate says."""

    def __init__(self, candidate: Candidate):
        super().__init__()
        features, head, channels, side = [], [], 1, 28
        for word, *numbers in (stage.split() for stage in candidate.stages.split(", ")):
            match word, [int(number) for number in numbers]:
                case "unshuffle", [r]:
                    features += [nn.PixelUnshuffle(r)]
                    channels, side = channels * r * r, side // r
                case "conv", [c, k, s]:
                    features += [nn.Conv2d(channels, c, k, s, k // 2), candidate.activation()]
                    channels, side = c, (side - 1) // s + 1
                case "pool", [r]:
                    features += [nn.MaxPool2d(r)]
                    side //= r
                case "linear", [u]:
                    head += [nn.Linear(channels * side**2, u), candidate.activation()]
                    channels, side = u, 1
                case _:
                    raise ValueError(f"stage {word} {numbers} is not known; see Candidate")
        self.features = nn.Sequential(*features)
        self.head = nn.Sequential(*head, nn.Linear(channels * side**2, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(2 * images - 1).permute(0, 2, 3, 1).flatten(1))


def network(candidate: Candidate) -> Network:
    """The candidate with weights that depend on a seed alone."""

    def build(seed: int) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return Classifier(candidate)

    return build


def held_out() -> Dataset:
    """The training images of the quick profile; as ``test``, images of the training file that are not among them."""
    data, whole = labdata.load(train_size=TRAIN), labdata.load().train
    chosen = torch.randperm(len(whole), generator=generator(0, "train subset"))
    if not torch.equal(whole.labels[chosen[:TRAIN]], data.train.labels):
        raise RuntimeError("the training subset is drawn otherwise than here: validation images may be among it")
    chosen = chosen[TRAIN : TRAIN + VALIDATION]
    return replace(data, test=Split(whole.pixels[chosen], whole.labels[chosen]))


def size(candidate: Candidate) -> dict[str, float]:
    """Parameters, and 10^6 floating-point operations of one image forward (a multiply-add is two)."""
    model = network(candidate)(0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 28, 28))
    return {"parameters": sum(p.numel() for p in model.parameters()), "mflop": counter.get_total_flops() / 1e6}


def speeds(names: Sequence[str], data: Dataset) -> dict[str, dict[str, float]]:
    """Training images a second on one core, by name and regime: median of rounds in which all take their turn."""
    few = replace(data, train=Split(data.train.pixels[:TIMED], data.train.labels[:TIMED]))
    rates: dict[str, dict[str, list[float]]] = {name: {"standard": [], "pgd": []} for name in names}
    for turn in range(ROUNDS + 1):
        for name in names:
            for regime, found in rates[name].items():
                start = time.perf_counter()
                trained(CANDIDATES[name], replace(RECIPES[regime], epochs=1), few, seed=0)
                if turn:  # the first round prepares the kernels
                    found.append(TIMED / (time.perf_counter() - start))
    return {name: {regime: round(statistics.median(found)) for regime, found in r.items()} for name, r in rates.items()}


def trained(candidate: Candidate, recipe: Recipe, data: Dataset, seed: int) -> nn.Module:
    """One model on all training images, by one core."""
    build, everyone = network(candidate), torch.ones(1, len(data.train), dtype=torch.bool)
    with Crew(1) as crew:
        fitted = fit(build, recipe, data, everyone, [derive(seed, recipe.regime)], CPU, crew=crew)
    return restored(build, fitted.states[0])


def judged(model: nn.Module, data: Dataset, attack: bool) -> dict[str, float]:
    """Accuracy on the validation images; under attack on the first of them, in float32."""
    images, labels = data.test.images, data.test.labels
    found = {"accuracy": _share(correct(model, images, labels))}
    if attack:
        x, y = images[:ATTACKED], labels[:ATTACKED]
        for eps in RADII:
            found[f"pgd {eps}"] = _share(withstand(model, x, y, eps, steps=10))
            found[f"fgsm {eps}"] = _share(correct(model, fgsm(model, x, y, eps), y))
    return found


def _share(outcomes: Tensor) -> float:
    return round(outcomes.double().mean().item(), 4)


def figure(results: dict[str, dict[str, Any]]) -> Figure:
    """Standard training against operations, PGD training against measured time; lines join what nothing beats."""
    drawn, (left, right) = new_figure(2, width=6.2, height=4.4)
    for ax, regime, metric in ((left, "standard", "accuracy"), (right, "pgd", "pgd 0.2")):
        points = {}  # by name: cost, accuracy in per cent
        for name, found in results.items():
            if found[regime]:
                cost = found["mflop"] if ax is left else 1e6 / found["images_per_second"][regime]
                points[name] = cost, 100 * statistics.mean(seed[metric] for seed in found[regime])
        ordered = sorted(points.items(), key=lambda item: (item[1][0], -item[1][1]))
        front = [(n, p) for i, (n, p) in enumerate(ordered) if all(p[1] > q[1] for _, q in ordered[:i])]
        ax.plot(*zip(*(p for _, p in front), strict=True), color=COLOURS[regime], lw=1, alpha=0.6)
        ax.plot(*zip(*points.values(), strict=True), MARKERS[regime], ls="", color=COLOURS[regime], ms=5, alpha=0.45)
        ax.plot(*points[CHOSEN], MARKERS[regime], color=COLOURS[regime], ms=10, markeredgecolor="black")
        above, below, beneath = ((-6, 7), "right"), ((7, -12), "left"), ((-5, -13), "right")
        places = {CHOSEN: below, STRIDED: beneath, PREDECESSOR: above}
        # In turn, else neighbours on the front would overlap.
        places |= {name: below if i % 2 else above for i, (name, _) in enumerate(front)}
        for name, (offset, aligned) in places.items():
            if name in points:
                ax.annotate(name, points[name], xytext=offset, ha=aligned, textcoords="offset points", fontsize=8,
                            fontweight="bold" if name == CHOSEN else "normal")  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks((2, 5, 10, 20, 50) if ax is left else (150, 200, 300, 400, 600), minor=False)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.margins(x=0.22, y=0.12)
    tidy(left, x="MFLOP forward, an image", y="validation accuracy (%)", title="Standard training")
    tidy(right, x="PGD training, microseconds an image on one core", y="accuracy under PGD-10, eps 0.2 (%)",
         title="PGD training")  # fmt: skip
    return drawn


def section() -> str:
    """What was found, for RESULTS.md: the cheapest candidate first."""
    path = RESULTS / "front.json"
    if not path.exists():
        return ""
    kept = json.loads(path.read_text())
    standard, pgd = RECIPES["standard"], RECIPES["pgd"]
    text = f"""## the network

What `labkit.networks.CompactCNN` (in bold) was chosen from: trained on {TRAIN:,} images and judged on {VALIDATION:,}
others of the training file; the standard models after {standard.epochs} epochs by AdamW, the PGD-trained ones after
{pgd.epochs}, under PGD-10 on the first {ATTACKED:,}. With a seed or two each, two points tell candidates apart and half
a point does not. All regimes share one architecture (DP-SGD at half the width, with tanh), and adversarial training is
what costs time: the choice is about that front.
Speeds are one core's ({kept["hardware"].partition(",")[0]}, torch {kept["torch"]}). `python -m benchmarks.front`.

![Validation accuracy against MFLOP, and robust accuracy against the time of PGD training](results/front.png)

| network | parameters | MFLOP forward | accuracy | PGD-trained, clean | {" | ".join(f"eps {e:g}" for e in RADII)} \
| images/s | PGD training, images/s |
|---|{"---:|" * (6 + len(RADII))}
"""
    for name, found in sorted(kept["candidates"].items(), key=lambda item: item[1]["mflop"]):
        shown = [f"**{name}**" if name == CHOSEN else name, f"{found['parameters']:,}", f"{found['mflop']:.2f}"]
        wanted = [("standard", "accuracy"), ("pgd", "accuracy"), *(("pgd", f"pgd {eps}") for eps in RADII)]
        for regime, metric in wanted:
            seeds = [100 * seed[metric] for seed in found[regime]]
            shown.append(f"{statistics.mean(seeds):.1f}" if seeds else "")
        shown += [f"{found['images_per_second'][regime]:,}" for regime in ("standard", "pgd")]
        text += f"| {' | '.join(shown)} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "front.json", help="results, JSON")
    parser.add_argument("--seeds", type=int, default=1, help="models a candidate and regime; 0: draw only")
    parser.add_argument("--regimes", nargs="+", default=["standard", "pgd"], choices=RECIPES)
    parser.add_argument("--only", nargs="+", default=list(CANDIDATES), choices=CANDIDATES, metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = held_out()
    results: dict[str, dict[str, Any]] = {}
    if args.out.exists():
        results = json.loads(args.out.read_text())["candidates"]

    def keep() -> None:
        whole = {"hardware": hardware_name(CPU), "torch": torch.__version__, "candidates": results}
        write_whole(args.out, json.dumps(whole, indent=1).encode())

    for name in args.only:
        candidate = CANDIDATES[name]
        facts = {"stages": candidate.stages, "activation": candidate.activation.__name__, **size(candidate)}
        results.setdefault(name, {**facts, **{regime: [] for regime in RECIPES}})
    if any("images_per_second" not in results[name] for name in args.only):
        for name, rates in speeds(args.only, data).items():
            results[name]["images_per_second"] = rates
    keep()
    for seed in range(args.seeds):
        for regime in args.regimes:
            for name in args.only:
                if len(results[name][regime]) == seed:
                    model = trained(CANDIDATES[name], RECIPES[regime], data, seed)
                    results[name][regime].append(judged(model, data, attack=regime == "pgd"))
                    print(seed, regime, name, results[name][regime][-1], flush=True)
                    keep()
    figure(results).savefig(args.out.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
