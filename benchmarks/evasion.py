"""PGD-10 on fixed checkpoints, against torchattacks, foolbox and ART: the same steps, judged in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.protocol import Result, against, in_turn, seconds
from labkit.attacks import correct, pgd, withstand
from labkit.lab import Lab
from labkit.params import Params

EPS, STEPS = 0.1, 10
STEP = 2.5 * EPS / STEPS
BATCHES = (64, 128, 250, 1000)

Images = Callable[[nn.Module, Tensor, Tensor, int], Tensor]  # (model, images, labels, batch) -> attacked images


def of_torchattacks(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    import torchattacks

    attack = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    return torch.cat([attack(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])


def of_foolbox(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    import foolbox

    seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    pairs = zip(x.split(batch), y.split(batch), strict=True)
    return torch.cat([attack(seen, a, b, epsilons=EPS)[1] for a, b in pairs])


def of_art(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    kind = "gpu" if x.device.type == "cuda" else "cpu"
    seen = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1), device_type=kind)
    attack = ProjectedGradientDescentPyTorch(
        seen, norm="inf", eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=batch, verbose=False
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)


PEERS: dict[str, Images] = {"torchattacks": of_torchattacks, "foolbox": of_foolbox, "ART": of_art}


def evasion(device: torch.device, size: int = 1000, repeats: int = 5, **params: int) -> tuple[list[Result], dict]:
    """PGD-10 at eps 0.1 on the quick profile's standard and PGD-trained model.

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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peer(model, images[:64], labels[:64], 64)
                tried = {b: seconds(partial(peer, model, images, labels, b), device) for b in BATCHES}
            used[name] = min(tried, key=tried.get)
            ways[name] = partial(peer, model, images, labels, used[name])
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
