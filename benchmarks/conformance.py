"""Robust accuracies on fixed checkpoints beside those of torchattacks, foolbox and ART, at equal settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.attackers import EPS, PEERS, QUERIES, STEPS, TARGETS, Images, best_batch, of_torchattacks
from benchmarks.protocol import Result, against, in_turn, seconds
from labkit.attacks import apgd, apgd_targeted, autoattack, correct, fab_targeted, fgsm, pgd, square
from labkit.lab import Lab
from labkit.params import Params

BATCH, PGD_STEPS = 256, 40
BATCHES = (64, 128, 256, 1000)  # tried for the speed of APGD
AGREE = 0.005  # robust accuracies may lie so far apart

OURS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "FGSM": partial(fgsm, eps=EPS),
    "PGD": partial(pgd, eps=EPS, steps=PGD_STEPS),
    "APGD-CE": partial(apgd, eps=EPS, steps=STEPS),
    "APGD-T": partial(apgd_targeted, eps=EPS, steps=STEPS, targets=TARGETS),
    "FAB-T": partial(fab_targeted, eps=EPS, steps=STEPS, targets=TARGETS),
    "Square": partial(square, eps=EPS, queries=QUERIES),
    "AutoAttack": partial(autoattack, eps=EPS),
}


KNOWN = {  # which attacks a peer has, as the parts of AutoAttack are set
    "torchattacks": ("FGSM", "PGD", "APGD-CE", "APGD-T", "FAB-T", "Square"),
    "foolbox": ("FGSM", "PGD"),
    "ART": ("FGSM", "PGD", "APGD-CE", "Square"),
}


def theirs(name: str) -> dict[str, Images]:
    """An attack of each peer that has it."""
    if name == "AutoAttack":
        return {"torchattacks": of_torchattacks("APGD-CE", "APGD-T", "FAB-T", "Square")}
    return {peer: PEERS[peer](name, pgd_steps=PGD_STEPS) for peer, known in KNOWN.items() if name in known}


def conformance(device: torch.device, size: int = 400, repeats: int = 3, **params: int) -> tuple[list[Result], dict]:
    """FGSM, PGD-40, APGD-CE, APGD-T, FAB-T, Square and AutoAttack at eps 0.1 on a standard and a PGD-trained model, as
    the default parameters train them; what is judged, in float32 and inside ball and box, are the images returned.

    Robust accuracies are to agree within 0.5 points and an image (starts are drawn), and labkit's AutoAttack is to
    leave no more than that above what survives all attacks of all peers. Times are of one run, the peers' in batches of
    256. Those of APGD-CE, where labkit is to be twice as fast, are over turns, each peer with its best batch size.
    """
    lab = Lab(Params(device=device.type, **params))
    images, labels = lab.data.test.batch(torch.arange(min(size, len(lab.data.test)), device=lab.device))
    results, robust, apart = [], {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for regime in ("standard", "pgd"):
            model = lab.classifiers(regime).model(0)
            turns, batch = _speed(model, images, labels, device, repeats)
            stands: dict[str, dict[str, Tensor]] = {}  # attack -> library -> bool [N]
            for name, ours in OURS.items():
                ways = {"labkit": partial(ours, model, images, labels)}
                ways |= {peer: partial(way, model, images, labels, BATCH) for peer, way in theirs(name).items()}
                judged = {library: _judged(way, model, images, labels, device) for library, way in ways.items()}
                stands[name] = {library: stood for library, (stood, _) in judged.items()}
                taken = turns if name == "APGD-CE" else {library: [t] for library, (_, t) in judged.items()}
                for peer in theirs(name):
                    one, other = _share(stands[name]["labkit"]), _share(stands[name][peer])
                    apart[f"{name}, {regime} model, {peer}"] = one - other
                    size_of = f"batches of {batch[peer] if name == 'APGD-CE' else BATCH}"
                    note = (
                        f"{len(images):,} images; robust accuracy {100 * one:.2f} % (labkit), "
                        f"{100 * other:.2f} % ({peer}, {size_of})"
                    )
                    if name == "AutoAttack":
                        note += f"; all attacks of all peers together leave {100 * _share(_together(stands)):.2f} %"
                    work = f"{name} on the {regime} model"
                    results.append(against(work, peer, taken["labkit"], taken[peer], note))
            robust[regime] = {name: {library: _share(s) for library, s in by.items()} for name, by in stands.items()}
            together = _share(_together(stands))
            robust[regime]["together"] = {"peers": together}
            apart[f"AutoAttack, {regime} model, all of the peers' attacks"] = (
                _share(stands["AutoAttack"]["labkit"]) - together
            )
    allowed = AGREE + 1 / len(images)
    beyond = [what for what, gap in apart.items() if abs(gap) > allowed]
    return results, {"robust_accuracy": robust, "labkit_less_peer": apart, "beyond_what_is_allowed": beyond}


def _speed(
    model: nn.Module, images: Tensor, labels: Tensor, device: torch.device, repeats: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of APGD-CE, a turn each, and the batch size that suits each peer best."""
    ways: dict[str, Callable[[], Tensor]] = {"labkit": partial(OURS["APGD-CE"], model, images, labels)}
    best = {}
    for peer, way in theirs("APGD-CE").items():
        best[peer] = best_batch(way, model, images, labels, BATCHES)
        ways[peer] = partial(way, model, images, labels, best[peer])
    return in_turn(ways, device, repeats), best


def _judged(
    way: Callable[[], Tensor], model: nn.Module, images: Tensor, labels: Tensor, device: torch.device
) -> tuple[Tensor, float]:
    """Which points stand, bool [N], on what an attack returns, cut to ball and box; and the seconds that it took."""
    found: list[Tensor] = []
    taken = seconds(lambda: found.append(way()), device)
    inside = found[0].detach().clamp(images - EPS, images + EPS).clamp(0, 1)
    return correct(model, images, labels) & correct(model, inside, labels), taken


def _together(stands: dict[str, dict[str, Tensor]]) -> Tensor:
    """Which points survive every attack of every peer, bool [N]."""
    return torch.stack([s for by in stands.values() for library, s in by.items() if library != "labkit"]).all(0)


def _share(stands: Tensor) -> float:
    return stands.double().mean().item()
