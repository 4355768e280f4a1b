"""A defence trained on 57 000 images of FashionMNIST, under every attack and with its certificate.

``python -m benchmarks.robust pgd 0.1 --images 1000`` trains it with the full profile's settings (``--set NAME=VALUE``
changes one) and judges on the training images that it held out, on which PGD training and TRADES also choose their
epoch; ``--test`` judges on test images, and puts the result into RESULTS.md. What is trained and what is attacked is
kept in the store. Minutes to hours on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from benchmarks import reached, render
from labkit import attacks, measure
from labkit.bounds import certified
from labkit.lab import Lab
from labkit.paramfiles import parse_assignment, read
from labkit.params import validate
from labkit.results import percent
from labkit.training import DEFENCES

FULL = Path(__file__).parent.parent / "params" / "full.yaml"


def judged(lab: Lab, count: int, *, test: bool) -> Tensor:
    """Indices of ``count`` random test images, or of training images that no defence trains on."""
    pool = torch.arange(len(lab.data.test)) if test else lab.validation.nonzero()[:, 0]
    return pool[torch.randperm(len(pool), generator=lab.generator("attacked images"))[:count]]


@click.command(help=__doc__.split("\n")[0])
@click.argument("defence", type=click.Choice(sorted(DEFENCES)))
@click.argument("eps", type=float)
@click.option("--images", default=1000, help="How many are attacked, chosen at random.")
@click.option("--test", is_flag=True, help="Test images, not those that were held out; what comes of it is kept.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
def main(defence: str, eps: float, images: int, test: bool, changes: Sequence[str]) -> None:
    given = read(FULL) | {"robust_seeds": 1} | dict(parse_assignment(change) for change in changes)
    lab = Lab(validate(given, "full profile and --set"))
    ensemble = lab.classifiers(defence, eps)
    accuracy, attacked = table(lab, ensemble.model(0), eps, images, test=test)
    pool = "test images" if test else "held-out images"
    print(f"{defence} at {eps:g}, {ensemble.seconds[0]:.0f} s of training; attacked: {attacked:,} {pool}")
    print("| | accuracy |", "|---|---|", sep="\n")
    for name, r in accuracy.items():
        print(f"| {name} | {percent(r, 2)} |")
    if test and reached.whole(lab.data):
        found = {"rows": accuracy, "attacked": attacked, "seconds": ensemble.seconds[0], "changed": list(changes)}
        reached.keep("robust", f"{defence} at {eps:g}", found, lab.device)
        render.write()


def table(lab: Lab, model: nn.Module, eps: float, images: int, *, test: bool) -> tuple[dict[str, dict], int]:
    """Rows: clean and certified on all images of the pool, after each attack on some; and how many those are."""
    split = lab.data.test if test else lab.data.train
    pool = judged(lab, len(split), test=test)
    chosen = pool[:images]
    x, y = split.batch(chosen)
    chain = {
        "FGSM": attacks.fgsm,
        "PGD-10": partial(attacks.pgd, steps=10, seed=0),
        "PGD-100": partial(attacks.pgd, steps=100, seed=0),
        **attacks.standard(lab.params.seed),
    }
    every = split.batch(pool)
    right, proved = attacks.correct(model, *every), certified(model, *every, eps)
    found = lab.survive([[model]], chain, x, y, eps, standing=~proved[: len(chosen)].cpu()[None])
    left = {"clean": right[None], **{name: found.after(name) for name in chain}, "certified": proved[None]}
    rows = {name: measure.fraction("attacked", "accuracy", stands).as_dict() for name, stands in left.items()}
    return rows, len(chosen)


if __name__ == "__main__":
    main()
