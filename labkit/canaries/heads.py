"""Canaries for linear heads: their training is played against as it is, and the weights that come out tell.

Canary i is a multiple of the i-th unit vector: nothing but it, and noise, moves the i-th column of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from labkit.canaries.dirac import CLASSES, LENGTH, Played, coins
from labkit.device import derive
from labkit.training.linear import Head, train_heads

SLOW = 1e-6  # learning rate: no promise depends on it, and a canary that is learned would have no gradient any more


def final_weights(
    heads: Sequence[Head], *, canaries: int, seed: int, device: torch.device | str = "cpu"
) -> list[Played]:
    """Play against :func:`labkit.training.linear.train_heads`, an auditor of each head, who sees what it publishes.

    He sees less than one who sees every gradient, but the whole of the code: sampling, clipping, noise and averaging.

    Args:
        heads: what is audited; they agree in ``sample_rate`` and ``steps``.
        canaries: m; about half of them are inserted, and nothing else is trained on.
        seed: of coins, batches and noise.
        device: where they are trained.
    """
    inserted, labels = coins(canaries, seed)
    mine = inserted.nonzero()[:, 0]
    features = torch.zeros(len(mine), canaries, device=device)
    features[torch.arange(len(mine)), mine] = LENGTH * max(1.0, *(head.clip for head in heads))  # beside the bias's 1
    slow = [replace(head, learning_rate=SLOW) for head in heads]
    weights = train_heads(features, labels[mine].to(device), slow, derive(seed, "heads"), classes=CLASSES)
    towards = F.normalize(1 / CLASSES - F.one_hot(labels, CLASSES), dim=1).T.to(weights)  # [C, m], the gradients' way
    return [Played(-(head[:, :-1] * towards).sum(0).double().cpu(), inserted) for head in weights]
