"""Robust accuracies on fixed checkpoints beside those of torchattacks, foolbox and ART, at equal settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.protocol import Result, against, in_turn, seconds
from labkit.attacks import apgd, apgd_targeted, autoattack, correct, fab_targeted, fgsm, pgd, square
from labkit.lab import Lab
from labkit.params import Params

EPS, BATCH = 0.1, 256
PGD_STEPS, STEPS, TARGETS, QUERIES = 40, 100, 9, 5000
PGD_STEP = 2.5 * EPS / PGD_STEPS
BATCHES = (64, 128, 256, 1000)  # tried for the speed of APGD
AGREE = 0.005  # robust accuracies may lie so far apart

Images = Callable[[nn.Module, Tensor, Tensor, int], Tensor]  # (model, images, labels, batch) -> attacked images

OURS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "FGSM": partial(fgsm, eps=EPS),
    "PGD": partial(pgd, eps=EPS, steps=PGD_STEPS),
    "APGD-CE": partial(apgd, eps=EPS, steps=STEPS),
    "APGD-T": partial(apgd_targeted, eps=EPS, steps=STEPS, targets=TARGETS),
    "FAB-T": partial(fab_targeted, eps=EPS, steps=STEPS, targets=TARGETS),
    "Square": partial(square, eps=EPS, queries=QUERIES),
    "AutoAttack": partial(autoattack, eps=EPS),
}


def of_torchattacks(*names: str) -> Images:
    """An attack, or several, each on the points that the ones before left standing.

    Its own ``AutoAttack`` takes 10 steps of APGD and FAB where the paper takes 100, so it is put together here.
    """

    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        import torchattacks as ta

        known = {
            "FGSM": partial(ta.FGSM, eps=EPS),
            "PGD": partial(ta.PGD, eps=EPS, alpha=PGD_STEP, steps=PGD_STEPS, random_start=True),
            "APGD-CE": partial(ta.APGD, eps=EPS, steps=STEPS),
            "APGD-T": partial(ta.APGDT, eps=EPS, steps=STEPS, n_classes=TARGETS + 1),
            "FAB-T": partial(ta.FAB, eps=EPS, steps=STEPS, multi_targeted=True, n_classes=TARGETS + 1),
            "Square": partial(ta.Square, eps=EPS, n_queries=QUERIES),
        }
        chosen = [known[name](model) for name in names]
        attack = ta.MultiAttack(chosen) if len(chosen) > 1 else chosen[0]
        return torch.cat([attack(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])

    return attacked


def of_foolbox(name: str) -> Images:
    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        import foolbox

        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = {
            "FGSM": foolbox.attacks.LinfFastGradientAttack,
            "PGD": partial(foolbox.attacks.LinfPGD, abs_stepsize=PGD_STEP, steps=PGD_STEPS, random_start=True),
        }[name]()
        pairs = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([attack(seen, a, b, epsilons=EPS)[1] for a, b in pairs])

    return attacked


def of_art(name: str) -> Images:
    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        kind = "gpu" if x.device.type == "cuda" else "cpu"
        seen = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1), device_type=kind)
        pgd = partial(evasion.ProjectedGradientDescentPyTorch, eps_step=PGD_STEP, max_iter=PGD_STEPS, verbose=False)
        auto = partial(evasion.AutoProjectedGradientDescent, eps_step=2 * EPS, max_iter=STEPS, verbose=False)
        attack = {
            "FGSM": evasion.FastGradientMethod,
            "PGD": partial(pgd, num_random_init=1),
            "APGD-CE": partial(auto, nb_random_init=1, loss_type="cross_entropy"),
            "Square": partial(evasion.SquareAttack, max_iter=QUERIES, verbose=False),
        }[name](seen, norm="inf" if name == "PGD" else float("inf"), eps=EPS, batch_size=batch)
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)

    return attacked


PEERS: dict[str, dict[str, Images]] = {
    "FGSM": {"torchattacks": of_torchattacks("FGSM"), "foolbox": of_foolbox("FGSM"), "ART": of_art("FGSM")},
    "PGD": {"torchattacks": of_torchattacks("PGD"), "foolbox": of_foolbox("PGD"), "ART": of_art("PGD")},
    "APGD-CE": {"torchattacks": of_torchattacks("APGD-CE"), "ART": of_art("APGD-CE")},
    "APGD-T": {"torchattacks": of_torchattacks("APGD-T")},
    "FAB-T": {"torchattacks": of_torchattacks("FAB-T")},
    "Square": {"torchattacks": of_torchattacks("Square"), "ART": of_art("Square")},
    "AutoAttack": {"torchattacks": of_torchattacks("APGD-CE", "APGD-T", "FAB-T", "Square")},
}


def conformance(device: torch.device, size: int = 400, repeats: int = 3, **params: int) -> tuple[list[Result], dict]:
    """FGSM, PGD-40, APGD-CE, APGD-T, FAB-T, Square and AutoAttack at eps 0.1 on the quick profile's standard and
    PGD-trained model; what is judged, in float32 and inside ball and box, are the images returned.

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
                ways |= {peer: partial(way, model, images, labels, BATCH) for peer, way in PEERS[name].items()}
                judged = {library: _judged(way, model, images, labels, device) for library, way in ways.items()}
                stands[name] = {library: stood for library, (stood, _) in judged.items()}
                taken = turns if name == "APGD-CE" else {library: [t] for library, (_, t) in judged.items()}
                for peer in PEERS[name]:
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
    for peer, way in PEERS["APGD-CE"].items():
        sizes = [b for b in BATCHES if b < len(images)] + [len(images)]
        tried = {b: seconds(partial(way, model, images, labels, b), device) for b in sizes}
        best[peer] = min(tried, key=tried.get)
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
