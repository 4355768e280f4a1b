"""PGD-10 on fixed checkpoints, against torchattacks, foolbox and ART: the same steps, judged in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.attackers import EPS, PEERS, best_batch
from benchmarks.protocol import Result, against, in_turn
from labkit.attacks import correct, pgd, withstand
from labkit.lab import Lab
from labkit.params import Params

STEPS = 10
BATCHES = (64, 128, 250, 1000)


def evasion(device: torch.device, size: int = 1000, repeats: int = 5, **params: int) -> tuple[list[Result], dict]:
    """PGD-10 at eps 0.1 on a standard and a PGD-trained model, as the default parameters train them.

    labkit twice: ``pgd`` gives images as its peers do; ``withstand`` says which images stand, and leaves the broken
    ones alone. Each peer has its best batch size of several. What is judged in float32 are the images returned.
    """
    lab = Lab(Params(device=device.type, **params))
    images, labels = lab.data.test.batch(torch.arange(min(size, len(lab.data.test)), device=lab.device))
    results, robust = [], {}
    for regime in ("standard", "pgd"):
        model = lab.classifiers(regime).model(0)
        ways: dict[str, Callable[[], Tensor]] = {
            "withstand": partial(withstand, model, images, labels, EPS, steps=STEPS),
            "pgd": partial(pgd, model, images, labels, EPS, steps=STEPS),
        }
        used = {}
        for name, peer in PEERS.items():
            way = peer("PGD", pgd_steps=STEPS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                used[name] = best_batch(way, model, images, labels, BATCHES)
            ways[name] = partial(way, model, images, labels, used[name])
        stand = {
            name: (way() if name == "withstand" else correct(model, way(), labels)).float().mean().item()
            for name, way in ways.items()
        }
        taken = in_turn(ways, device, repeats)
        robust[regime] = stand
        for ours in ("withstand", "pgd"):
            for name in PEERS:
                note = (
                    f"{len(images):,} images; robust accuracy {100 * stand[ours]:.1f} % (labkit), "
                    f"{100 * stand[name]:.1f} % ({name}, batches of {used[name]})"
                )
                work = f"PGD-10 on the {regime} model, labkit's {ours}"
                results.append(against(work, name, taken[ours], taken[name], note))
    return results, {"robust_accuracy": robust}
