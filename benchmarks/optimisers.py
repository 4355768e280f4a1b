"""Muon beside AdamW: what the classifiers learn in so many epochs.

``python -m benchmarks.optimisers`` trains standard and PGD models on the quick profile's images, each with both, and
judges them on training images that were held out. The learning rates were chosen on such images too, AdamW's among
0.003 to 0.02, Muon's among 0.0015 to 0.012. Ten minutes on two cores; `make bench` takes what it left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path

import torch

from benchmarks.front import ATTACKED, TRAIN, VALIDATION, held_out, judged
from benchmarks.protocol import RESULTS
from labkit.device import derive, hardware_name
from labkit.networks import build
from labkit.store import write_whole
from labkit.training import LARGE, Adversarial, Mean, Recipe
from labkit.training.loop import fit
from labkit.training.watch import restored
from labkit.workers import Crew, share

PATH = RESULTS / "optimisers.json"
CPU = torch.device("cpu")
RATES = {"adamw": 1e-2, "muon": 6e-3}
EPOCHS = {"standard": (2, 4, 8, 16), "pgd": (6, 12, 24)}
COLUMNS = {"standard": ("accuracy",), "pgd": ("accuracy", "pgd 0.1", "pgd 0.2", "pgd 0.3")}


def recipe(regime: str, epochs: int, optimiser: str) -> Recipe:
    """As the quick profile trains, but for its epochs."""
    if regime == "standard":
        return Recipe(regime, Mean(), epochs, 128, RATES[optimiser], optimiser, piece=LARGE)
    rule = Adversarial(Mean(), 0.15, 2, 1.0)
    return Recipe(regime, rule, epochs, 128, RATES[optimiser], optimiser, mirror=True, piece=LARGE)


def measured(seeds: int) -> list[dict]:
    """One entry a regime, number of epochs and optimiser: what each seed's model reached, and seconds of one core."""
    data = held_out()
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)

    def work(kind: tuple[str, int, str, int]) -> tuple[dict[str, float], float]:
        regime, epochs, optimiser, seed = kind
        start = time.perf_counter()
        with Crew(1) as crew:
            of_seed = [derive(seed, regime)]
            fitted = fit(build, recipe(regime, epochs, optimiser), data, everyone, of_seed, CPU, crew=crew)
        taken = time.perf_counter() - start
        return judged(restored(build, fitted.states[0]), data, attack=regime == "pgd"), taken

    kinds = [(r, e, o) for r, each in EPOCHS.items() for e in each for o in RATES]
    found = share(work, [(*kind, seed) for kind, seed in product(kinds, range(seeds))], CPU)
    entries = []
    for index, (regime, epochs, optimiser) in enumerate(kinds):
        reached, taken = zip(*found[index * seeds : (index + 1) * seeds], strict=True)
        named = {"regime": regime, "epochs": epochs, "optimiser": optimiser}
        entries.append(named | {"reached": reached, "seconds": statistics.median(taken)})
    return entries


def section() -> str:
    """What was found, for RESULTS.md; empty where nothing was."""
    if not PATH.exists():
        return ""
    kept = json.loads(PATH.read_text())
    columns = [f"{name}: accuracy | eps 0.1 | eps 0.2 | eps 0.3 | s" for name in ("AdamW", "Muon")]
    text = f"""## the optimiser

Standard and PGD training on {TRAIN:,} images, judged on {VALIDATION:,} others of the training file, PGD-10 on the first
{ATTACKED:,}: means over {kept["seeds"]} seeds, and the seconds of one core. Muon changes the steps of convolutions, and
leaves the rest to AdamW; each has the learning rate that was best on held-out images. `python -m benchmarks.optimisers`
({kept["hardware"].partition(",")[0]}, torch {kept["torch"]}).

| training | epochs | {" | ".join(columns)} |
|---|{"---:|" * 11}
"""
    by_kind = {(e["regime"], e["epochs"], e["optimiser"]): e for e in kept["entries"]}
    for regime, each in EPOCHS.items():
        for epochs in each:
            cells = [regime, str(epochs)]
            for optimiser in RATES:
                found = by_kind[regime, epochs, optimiser]
                means = [100 * statistics.mean(r[column] for r in found["reached"]) for column in COLUMNS[regime]]
                cells += [*(f"{mean:.1f}" for mean in means), *[""] * (4 - len(means)), f"{found['seconds']:.0f}"]
            text += f"| {' | '.join(cells)} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PATH, help="results, JSON")
    parser.add_argument("--seeds", type=int, default=3, help="models a regime, number of epochs and optimiser")
    args = parser.parse_args()
    kept = {"hardware": hardware_name(CPU), "torch": torch.__version__, "seeds": args.seeds}
    kept["entries"] = measured(args.seeds)
    write_whole(args.out, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
