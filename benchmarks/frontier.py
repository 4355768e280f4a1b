"""Accuracy against epsilon of a linear classifier on scattering features, trained with DP-SGD on all of FashionMNIST.

``python -m benchmarks.frontier`` trains on the first 55 000 training images and judges on the last 5 000, which is what
the settings of :mod:`labkit.frontier` were chosen by; ``--test`` trains on all 60 000 and judges on the test images,
once, with settings that are then fixed. Poisson sampling, PRV accountant, delta = 1e-5. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from labkit import data as labdata
from labkit.data import Split
from labkit.features import described, whitening
from labkit.frontier import GROUPS, MEAN_BOUND, MEAN_NOISE, TRANSFORM, settings
from labkit.intervals import student_t
from labkit.training.accounting import composed, noise_beside
from labkit.training.linear import Head, head_logits, private_mean, train_heads

DELTA = 1e-5
HELD_OUT = 5_000  # images, of the end of the training file
BATCH, EPOCHS = 8_192, 40
EPSILONS = (1.0, 2.0, 3.0, 8.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--test", action="store_true", help="train on all images, judge on the test images")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    data = labdata.load()
    last = len(data.train) - HELD_OUT
    parts = [slice(0, last), slice(last, None)]
    held_in, held_out = (Split(data.train.pixels[part], data.train.labels[part]) for part in parts)
    train, judge = (data.train, data.test) if options.test else (held_in, held_out)
    seen, judged = (described(split, TRANSFORM, GROUPS) for split in (train, judge))
    mean = private_mean(seen, MEAN_BOUND, MEAN_NOISE, 0)
    white = whitening(TRANSFORM, GROUPS)
    seen, judged = white(seen.sub_(mean)), white(judged.sub_(mean))
    print(f"features: {time.perf_counter() - start:.0f} s", flush=True)

    rate = BATCH / len(train)
    steps, beside = round(EPOCHS / rate), ((MEAN_NOISE, 1.0, 1),)
    heads = [
        Head(noise_beside(epsilon, rate, steps, DELTA, beside), rate, EPOCHS, *settings(epsilon))
        for epsilon in EPSILONS
    ]
    right = []  # accuracies by seed and head
    for seed in range(options.seeds):
        logits = head_logits(train_heads(seen, train.labels, heads, seed), judged)  # [heads, N, 10]
        right.append((logits.argmax(2) == judge.labels).double().mean(1))
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    print("| epsilon, proved | noise | learning rate | clip | accuracy, % | seeds |", "|---" * 6 + "|", sep="\n")
    for head, values in zip(heads, torch.stack(right, 1).tolist(), strict=True):
        low, high = student_t(values) if len(values) > 1 else (np.nan, np.nan)
        proved = composed(((head.noise_multiplier, rate, steps), *beside), DELTA)
        print(
            f"| {proved:.3f} | {head.noise_multiplier:.3f} | {head.learning_rate} | {head.clip} "
            f"| {100 * np.mean(values):.2f} ({100 * low:.2f} to {100 * high:.2f}) | {len(values)} |"
        )


if __name__ == "__main__":
    main()
