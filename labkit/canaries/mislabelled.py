"""Black-box canaries: training images with a wrong label, which a model can only know by heart.

A coin is tossed for each; the model is trained as ever, on the rest and on those with heads; the auditor asks it for
its answers and takes a low loss on the wrong label for a sign. After Steinke, Nasr and Jagielski (2023), section 6.2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labkit.canaries.dirac import Played
from labkit.data import Dataset, Split
from labkit.device import generator
from labkit.membership import log_odds


@dataclass(frozen=True, eq=False)
class Planted:
    """A dataset with canaries among its training images.

    Attributes:
        data: the dataset; the test images are as they were.
        members: bool [1, N], what to train on: all but the canaries whose coin fell tails.
        places: [m], where the canaries are among the training images.
        inserted: bool [m], the coins.
    """

    data: Dataset
    members: Tensor
    places: Tensor
    inserted: Tensor

    def play(self, logits: Tensor) -> Played:
        """The auditor's scores, from the trained model's logits [N, C] on the training images."""
        canaries = self.data.train.labels.cpu()[self.places]
        return Played(log_odds(logits[self.places], canaries), self.inserted)


def mislabelled(data: Dataset, canaries: int, seed: int) -> Planted:
    """Give a random wrong label to ``canaries`` random training images, and toss a coin for each.

    Raises:
        ValueError: more canaries than training images.
    """
    n, classes = len(data.train), len(data.classes)
    if not 1 <= canaries <= n:
        raise ValueError(f"canaries = {canaries} must be 1 to {n}, the number of training images")
    draw = generator(seed, "mislabelled")
    places = torch.randperm(n, generator=draw)[:canaries]
    inserted = torch.rand(canaries, generator=draw) < 0.5
    shift = torch.randint(1, classes, (canaries,), generator=draw)
    labels = data.train.labels.cpu().clone()
    labels[places] = (labels[places] + shift) % classes
    members = torch.ones(1, n, dtype=torch.bool)
    members[0, places] = inserted
    train = Split(data.train.pixels, labels.to(data.train.labels.device))
    mark = hashlib.sha256(f"{data.sha256} mislabelled {canaries} {seed}".encode()).hexdigest()
    return Planted(replace(data, train=train, sha256=mark), members, places, inserted)
