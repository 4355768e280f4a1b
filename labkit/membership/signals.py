"""What an attacker who sees logits can read off them, an image at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.membership.rows import queries

FEATURES = ("loss", "confidence", "entropy", "margin", "correct")


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p_y / (1 - p_y)) of the true class, computed without forming p: Carlini et al. (2022), section IV-C.

    Args:
        logits: [..., N, C]; labels: [N] int64.

    Returns:
        [..., N] float64; finite wherever the logits are.
    """
    logits = logits.double()
    true = _true(logits, labels)  # [..., N]
    others = logits.scatter(-1, _index(logits, labels), -torch.inf)
    return true - others.logsumexp(-1)


def log_odds_of(losses: Tensor) -> Tensor:
    """:func:`log_odds` from cross-entropies (nats) of any shape: float64, at most 87.3 (a loss of 0 in float32)."""
    return -losses.double().clamp(min=torch.finfo(torch.float32).tiny).expm1().log()


def features(logits: Tensor, labels: Tensor) -> Tensor:
    """The learned attacker's features, in the order of ``FEATURES``.

    Args:
        logits: [..., N, C]; labels: [N] int64.

    Returns:
        [..., N, 5] float64: cross-entropy (nats), probability of the true class, entropy of the prediction
        (nats), margin of the true logit over the best other, 1 where the prediction is right.
    """
    logits = logits.double()
    log_p = logits.log_softmax(-1)
    true = log_probability(logits, labels)  # [..., N]
    best_other = logits.scatter(-1, _index(logits, labels), -torch.inf).amax(-1)
    margin = _true(logits, labels) - best_other
    entropy = -(log_p.exp() * log_p).nan_to_num().sum(-1)  # 0 log 0 = 0
    return torch.stack([-true, true.exp(), entropy, margin, correct(logits, labels)], -1)


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the true class, in nats: [..., N] float64, from logits [..., N, C] and labels [N] int64.

    By way of the odds: log-softmax rounds to 0 from odds of e^37 on, and no threshold could tell such images apart.
    """
    return F.logsigmoid(log_odds(logits, labels))


def probability(logits: Tensor, labels: Tensor) -> Tensor:
    """:func:`log_probability`, averaged over queries as a probability: [M, N], of logits [M, N, C] or [M, N, Q, C]."""
    log_p = log_probability(queries(logits), labels[:, None])  # [M, N, Q]
    return log_p.logsumexp(2) - math.log(log_p.shape[2])


def odds(logits: Tensor, labels: Tensor) -> Tensor:
    """:func:`log_odds` of each query: [M, N, Q], of logits [M, N, C] or [M, N, Q, C]."""
    return log_odds(queries(logits), labels[:, None])


def full(logits: Tensor, labels: Tensor) -> Tensor:
    """All of the prediction, in an order that means the same for every image.

    Args:
        logits: [..., N, C]; labels: [N] int64.

    Returns:
        [..., N, C] float64 log-probabilities: of the true class, then of the others from the likeliest down.
    """
    log_p = logits.double().log_softmax(-1)
    rest = log_p.scatter(-1, _index(log_p, labels), -torch.inf).sort(-1, descending=True).values
    return torch.cat([_true(log_p, labels).unsqueeze(-1), rest[..., :-1]], -1)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the prediction is the label, [..., N] float64: the score of the correctness attack."""
    return (logits.argmax(-1) == labels).double()


def _index(logits: Tensor, labels: Tensor) -> Tensor:
    return labels.unsqueeze(-1).expand(*logits.shape[:-1], 1)


def _true(values: Tensor, labels: Tensor) -> Tensor:
    if labels.shape[0] != values.shape[-2 if labels.ndim == 1 else -3]:
        raise ValueError(f"labels are {list(labels.shape)}, logits {list(values.shape)}: need one label an image")
    return values.gather(-1, _index(values, labels)).squeeze(-1)
