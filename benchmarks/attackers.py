"""Attacks of torchattacks, foolbox and ART: functions from a model, images and labels to attacked images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.protocol import seconds

EPS = 0.1
STEPS, TARGETS, QUERIES = 100, 9, 5000  # of AutoAttack's parts

Images = Callable[[nn.Module, Tensor, Tensor, int], Tensor]  # (model, images, labels, batch) -> attacked images


def of_torchattacks(*names: str, pgd_steps: int = 10) -> Images:
    """An attack, or several, each on the points that the ones before left standing.

    Its own ``AutoAttack`` takes 10 steps of APGD and FAB where the paper takes 100, so it is put together here.
    """

    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        import torchattacks as ta

        known = {
            "FGSM": partial(ta.FGSM, eps=EPS),
            "PGD": partial(ta.PGD, eps=EPS, alpha=_step(pgd_steps), steps=pgd_steps, random_start=True),
            "APGD-CE": partial(ta.APGD, eps=EPS, steps=STEPS),
            "APGD-T": partial(ta.APGDT, eps=EPS, steps=STEPS, n_classes=TARGETS + 1),
            "FAB-T": partial(ta.FAB, eps=EPS, steps=STEPS, multi_targeted=True, n_classes=TARGETS + 1),
            "Square": partial(ta.Square, eps=EPS, n_queries=QUERIES),
        }
        chosen = [known[name](model) for name in names]
        attack = ta.MultiAttack(chosen) if len(chosen) > 1 else chosen[0]
        return torch.cat([attack(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])

    return attacked


def of_foolbox(name: str, pgd_steps: int = 10) -> Images:
    """FGSM or PGD."""

    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        import foolbox

        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        pgd = partial(foolbox.attacks.LinfPGD, abs_stepsize=_step(pgd_steps), steps=pgd_steps, random_start=True)
        attack = {"FGSM": foolbox.attacks.LinfFastGradientAttack, "PGD": pgd}[name]()
        pairs = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([attack(seen, a, b, epsilons=EPS)[1] for a, b in pairs])

    return attacked


def of_art(name: str, pgd_steps: int = 10) -> Images:
    """FGSM, PGD, APGD-CE or Square."""

    def attacked(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        kind = "gpu" if x.device.type == "cuda" else "cpu"
        seen = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1), device_type=kind)
        pgd = partial(evasion.ProjectedGradientDescentPyTorch, eps_step=_step(pgd_steps), max_iter=pgd_steps)
        auto = partial(evasion.AutoProjectedGradientDescent, eps_step=2 * EPS, max_iter=STEPS, verbose=False)
        attack = {
            "FGSM": evasion.FastGradientMethod,
            "PGD": partial(pgd, num_random_init=1, verbose=False),
            "APGD-CE": partial(auto, nb_random_init=1, loss_type="cross_entropy"),
            "Square": partial(evasion.SquareAttack, max_iter=QUERIES, verbose=False),
        }[name](seen, norm="inf" if name == "PGD" else float("inf"), eps=EPS, batch_size=batch)
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)

    return attacked


PEERS: dict[str, Callable[..., Images]] = {"torchattacks": of_torchattacks, "foolbox": of_foolbox, "ART": of_art}


def best_batch(way: Images, model: nn.Module, images: Tensor, labels: Tensor, sizes: tuple[int, ...]) -> int:
    """The batch size with which an attack takes least time; sizes beyond the number of images stand for all of them."""
    way(model, images[:64], labels[:64], 64)  # what only the first call costs
    tried = sorted({min(size, len(images)) for size in sizes})
    return min(tried, key=lambda size: seconds(partial(way, model, images, labels, size), images.device))


def _step(steps: int) -> float:
    return 2.5 * EPS / steps
