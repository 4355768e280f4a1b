"""The end-to-end private network, trained with DP-SGD on all of FashionMNIST: its accuracy at a proved epsilon.

``python -m benchmarks.end_to_end 3`` trains with the full profile's settings (``--set NAME=VALUE`` changes one) on the
first 55 000 training images and judges on the last 5 000; ``--test`` trains on all 60 000 and judges on the test
images, once, with settings that are then fixed. Either result is put into RESULTS.md. Its learning rate is the
profile's, which is that of ``dp_epsilon``, brought to the epsilon that is asked for. Minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from benchmarks import reached, render
from benchmarks.frontier import held_out
from benchmarks.robust import FULL
from labkit import measure
from labkit.lab import Lab
from labkit.paramfiles import parse_assignment, read
from labkit.params import validate
from labkit.results import percent


@click.command(help=__doc__.split("\n")[0])
@click.argument("epsilon", type=float)
@click.option("--seeds", default=1, help="How many.")
@click.option("--test", is_flag=True, help="Train on all images, judge on the test images.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
def main(epsilon: float, seeds: int, test: bool, changes: Sequence[str]) -> None:
    given = read(FULL) | {"seeds": seeds} | dict(parse_assignment(c) for c in changes)
    lab = Lab(validate(given, "full profile, --seeds and --set"))
    whole = reached.whole(lab.data)
    if not test:
        lab.data = held_out(lab.data)
    ensemble = lab.private(epsilon)
    right = ensemble.logits(lab.data.test).argmax(2) == lab.data.test.labels.cpu()  # [seeds, N]
    r = measure.fraction("dp", "accuracy", right, **lab.facts(ensemble)).as_dict()
    taken = sum(ensemble.seconds) / seeds
    print(f"epsilon {r['epsilon']:.3f}: {percent(r, 2)}, {taken:.0f} s a seed")
    if whole:
        facts = {"row": r, "seconds": taken, "changed": list(changes), "rate": ensemble.recipe.learning_rate}
        reached.keep("private" if test else "held out", f"end to end, {epsilon:g}", facts, lab.device)
        render.write()


if __name__ == "__main__":
    main()
