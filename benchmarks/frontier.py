"""Accuracy against epsilon of a linear classifier on scattering features, trained with DP-SGD on all of FashionMNIST.

``python -m benchmarks.frontier`` trains on the first 55 000 training images and judges on the last 5 000, which is what
the settings of :mod:`labkit.frontier` were chosen by; ``--test`` trains on all 60 000 and judges on the test images,
once, with settings that are then fixed, and puts the result into RESULTS.md. Poisson sampling, PRV accountant,
delta = 1e-5. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import reached, render
from labkit import data as labdata
from labkit import measure
from labkit.data import Dataset, Split
from labkit.frontier import frontiers
from labkit.results import percent
from labkit.store import Store

EPSILONS = (1.0, 2.0, 3.0, 8.0)
DELTA = 1e-5
HELD_OUT = 5_000  # images, of the end of the training file
BATCH, EPOCHS = 8_192, 40


def held_out(data: Dataset) -> Dataset:
    """The last training images as ``test``, the others to train on."""
    parts = [slice(0, -HELD_OUT), slice(-HELD_OUT, None)]
    train, test = (Split(data.train.pixels[part], data.train.labels[part]) for part in parts)
    return replace(data, train=train, test=test, sha256=f"{data.sha256}, last {HELD_OUT} held out")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--test", action="store_true", help="train on all images, judge on the test images")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    options = parser.parse_args(arguments)
    data = labdata.load() if options.test else held_out(labdata.load())
    with tempfile.TemporaryDirectory() as folder:
        runs = frontiers(
            data,
            EPSILONS,
            sample_rate=BATCH / len(data.train),
            epochs=EPOCHS,
            delta=DELTA,
            seeds=range(options.seeds),
            store=Store(folder),
        )
    right = torch.stack([run.logits.argmax(2) == data.test.labels for run in runs], 1)  # [E, seeds, N]
    print("| epsilon, proved | accuracy | seeds |", "|---" * 3 + "|", sep="\n")
    seconds = sum(run.seconds for run in runs) / len(runs) / len(EPSILONS)
    for target, proved, hits in zip(EPSILONS, runs[0].epsilons, right, strict=True):
        r = measure.fraction("scattering", "accuracy", hits, epsilon=proved, delta=DELTA).as_dict()
        print(f"| {proved:.3f} | {percent(r, 2)} | {len(hits)} |")
        if options.test and reached.whole(data):
            kept = {"row": r, "seconds": seconds, "changed": []}
            reached.keep("private", f"scattering, {target:g}", kept, torch.device("cpu"))
            render.write()


if __name__ == "__main__":
    main()
