"""What recipes reach when they are trained on all images and judged on test images: kept, and as tables."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.protocol import RESULTS
from labkit.data import Dataset
from labkit.device import hardware_name
from labkit.results import percent
from labkit.store import write_whole

PATH = RESULTS / "reached.json"
ATTACKS = {  # columns of the page, by the names that are kept; after the last one AutoAttack is through
    "FGSM": "FGSM",
    "PGD-10": "PGD-10",
    "PGD-100": "PGD-100",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "AutoAttack",
}

PRIVATE = {"private": "private classifier", "held out": "judged on 5 000 held-out training images, to choose"}

HEAD = """## what recipes reach

Defences are trained on the images that are not held out (the epoch of PGD and TRADES is chosen there), private
models on all 60 000; test images judge settings that are fixed, with 95 % intervals over images or, where there are
several, over seeds. Every setting that was judged so stands here: where one name has several lines, the best of them is
a little flattered. Clean and certified accuracy are of all 10 000 test images; robust accuracy is what an attack
and those to its left leave of the attacked ones, which are drawn at random, in float32; PGD's steps are 2.5 radii over
their number, so many are short, and flatter more than AutoAttack does. Its last part is Square: where that breaks more
than half a point of what FAB-T left, gradients mislead, and more queries might break more. Settings other than the full
profile's are named. `python -m benchmarks.robust --help`, `benchmarks.frontier`, `benchmarks.end_to_end`.

To reach under AutoAttack: 80 % at 0.1 with 88.5 % clean, 65 % at 0.2, 52 % at 0.3; certified, 76 % at 0.1; end to end,
87.5 % at epsilon 3; scattering, 88.8 % at 1, 90.5 % at 3, 91.5 % at 8.
"""


def whole(data: Dataset) -> bool:
    """Whether it is all of FashionMNIST."""
    return data.name == "fashion_mnist" and len(data.train) == 60_000 and len(data.test) == 10_000


def keep(kind: str, name: str, facts: Mapping[str, Any], device: torch.device) -> None:
    """Put what was found among the others of its kind; only the same name with the same settings gives way to it.

    So every recipe that was ever judged on test images stands on the page, and not the best of them.
    """
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    at = {"hardware": hardware_name(device), "torch": torch.__version__}
    entry = {"name": name, **facts, **at, "measured": time.strftime("%Y-%m-%d", time.gmtime())}
    others = [e for e in known.get(kind, []) if (e["name"], e["changed"]) != (name, entry["changed"])]
    known[kind] = sorted([*others, entry], key=lambda e: (e["name"], e["changed"]))
    write_whole(PATH, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())


def section() -> str:
    """The part of RESULTS.md on what was kept; empty where nothing was."""
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    parts = [HEAD] if known else []
    if "robust" in known:
        names = ("clean", *ATTACKS.values(), "certified")
        parts.append(
            f"\n| defence | {' | '.join(names)} | attacked | training, s | on | settings |\n"
            f"|---{'|---:' * 11}|---|---|\n"
        )
        for found in known["robust"]:
            rows = found["rows"]
            between = [f"{100 * rows[attack]['value']:.1f}" for attack in list(ATTACKS)[:-1]]
            cells = [percent(rows["clean"]), *between, percent(rows["square"]), percent(rows["certified"])]
            said = f"{found['attacked']:,} | {found['seconds']:,.0f} | {found['hardware']} | "
            said += ", ".join(found["changed"]) or "as in full"
            parts.append(f"| {found['name']} | {' | '.join(cells)} | {said} |\n")
    for kind in [kind for kind in PRIVATE if kind in known]:
        parts.append(
            f"\n| {PRIVATE[kind]} | epsilon, proved | learning rate | accuracy | seeds | training, s "
            f"| on | settings |\n|---{'|---:' * 5}|---|---|\n"
        )
        for found in known[kind]:
            r, changed = found["row"], ", ".join(found["changed"]) or "as in full"
            rate = f"{found['rate']:.3g}" if "rate" in found else ""
            said = f"{r['epsilon']:.3f} | {rate} | {percent(r)} | {r['models']} | {found['seconds']:,.0f}"
            parts.append(f"| {found['name']} | {said} | {found['hardware']} | {changed} |\n")
    at = sorted({f"{f['hardware']}, torch {f['torch']}, {f['measured']}" for by in known.values() for f in by})
    return "".join([*parts, "\n", "; ".join(at), ".\n"]) if known else ""
