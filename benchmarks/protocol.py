"""How it is measured: ways that do the same work take turns, A B A B; a turn of A is set against B's next to it."""

from __future__ import annotations

import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from labkit.device import hardware_name
from labkit.store import write_whole

RESULTS = Path(__file__).parent / "results"
PEERS = ("torch", "torchvision", "opacus", "scikit-learn", "torchattacks", "foolbox", "adversarial-robustness-toolbox")


@dataclass(frozen=True)
class Result:
    """Labkit against one peer on one piece of work.

    Attributes:
        work: what was done. peer: by whom besides.
        ratios: the peer's seconds over labkit's, one a turn.
        ours, theirs: median seconds of a turn.
        note: sizes, and what both reached.
    """

    work: str
    peer: str
    ratios: list[float]
    ours: float
    theirs: float
    note: str

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def seconds(way: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(ways: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, ``repeats`` turns after one that does not count (caches, compiled kernels)."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, repeats):
        for name, way in ways.items():
            elapsed = seconds(way, device)
            if turn >= 0:
                taken[name].append(elapsed)
    return taken


def against(work: str, peer: str, ours: list[float], theirs: list[float], note: str, scale: float = 1.0) -> Result:
    """A result from turns that stood beside each other; ``scale`` where the peer did that part of the work only."""
    theirs = [scale * t for t in theirs]
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    return Result(work, peer, ratios, statistics.median(ours), statistics.median(theirs), note)


def surroundings(device: torch.device) -> dict[str, str]:
    """Hardware and versions."""
    found = {"hardware": hardware_name(device), "python": platform.python_version(), "system": platform.system()}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def slug(title: str) -> str:
    """A title as the name of a file."""
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


def keep(name: str, results: list[Result], facts: dict, device: torch.device) -> None:
    """Put one benchmark's results among those of the same machine, in the place of its last ones."""
    path = RESULTS / f"{slug(f'{device.type} {hardware_name(device)}')}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "surroundings": surroundings(device),
        "results": [asdict(r) for r in results],
        "facts": facts,
    }
    RESULTS.mkdir(exist_ok=True)
    write_whole(path, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
