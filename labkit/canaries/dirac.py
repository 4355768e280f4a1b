"""White-box canaries: examples whose gradients share nothing, and lie in the open.

Canary i is an image that is black but for its i-th pixel. A linear layer behind a threshold, which no attack of a
radius below one half crosses, has a gradient for it in the i-th column of its weights and nowhere else. The auditor
looks at every gradient that a rule gives out, noise and all; what he finds in a column tells whether that canary was
trained on. Dirac gradients after Nasr et al. (2023), section 4.1. Of a rule that attacks what it trains on they tell
whether it still clips and adds noise, and not whether its attack lets examples mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.canaries.bound import Bound, LowerBound, lower_bound, one_run
from labkit.device import derive, generator
from labkit.training.dice import Dice
from labkit.training.rules import Private, Rule
from labkit.training.stack import Stack
from labkit.workers import GPU_CHUNK, PIECE, share

CLASSES = 10
LENGTH = 10.0  # of what the layer sees of a canary, in clipping bounds: a gradient far too long unless it is clipped
BLOCK = 5000  # canaries of one training: each costs as much as its layer is wide


@dataclass(frozen=True)
class Played:
    """A game with m canaries.

    Attributes:
        scores: [m] float, higher where the auditor is surer that the canary was trained on.
        inserted: bool [m], the coins.
    """

    scores: Tensor
    inserted: Tensor

    def bound(self, delta: float, *, bound: Bound = lower_bound) -> LowerBound:
        """The epsilon at ``delta`` that the game demonstrates at 95 % (see :func:`labkit.canaries.one_run`)."""
        return one_run(self.scores.numpy(force=True), self.inserted.numpy(force=True), delta, bound=bound)


def coins(canaries: int, seed: int) -> tuple[Tensor, Tensor]:
    """Who is inserted, bool [m], and labels drawn at random, [m] int64."""
    draw = generator(seed, "canaries")
    return torch.rand(canaries, generator=draw) < 0.5, torch.randint(CLASSES, (canaries,), generator=draw)


def white_box(
    rule: Rule,
    claim: Private,
    *,
    sample_rate: float,
    steps: int,
    canaries: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Played:
    """Play against a rule of DP-SGD: it makes the gradients of ``steps`` Poisson batches, and the auditor sees all.

    The weights stay where they are: privacy is promised along every path that they could take. A canary's score is its
    log-likelihood ratio under the claim: in the direction of its gradient, in clipping bounds, a batch's sum is
    N(0, sigma^2) without it, and with it N(1, sigma^2) at the sampling rate.

    Every :data:`BLOCK` of canaries has a training of its own. What is promised of each training is promised of all of
    them together, since no example is in two (parallel composition).

    Args:
        rule: what is audited, e.g. ``recipe.rule``; also one that attacks what it trains on.
        claim: the rule that it claims to be.
        sample_rate: in (0, 1]; steps: as accounted.
        canaries: m; about half of them are inserted.
        seed: of coins, batches and noise.
        device: where the rule works.
    """
    device = torch.device(device)
    inserted, labels = coins(canaries, seed)

    def played(block: int) -> Tensor:
        part, its_seed = slice(block, block + BLOCK), derive(seed, "block", block)
        return _scores(rule, claim, inserted[part], labels[part].to(device), sample_rate, steps, its_seed)

    return Played(torch.cat(share(played, range(0, canaries, BLOCK), device)), inserted)


def _scores(
    rule: Rule, claim: Private, inserted: Tensor, labels: Tensor, sample_rate: float, steps: int, seed: int
) -> Tensor:
    """Of the canaries of one training, on the CPU: [m] float64; ``labels`` are where the rule is to work."""
    canaries, device = len(labels), labels.device
    network = nn.Sequential(Threshold(2 * LENGTH * claim.clip), nn.Linear(canaries, CLASSES, bias=False))
    nn.init.zeros_(network[1].weight)
    stack, dice = Stack([network], device), Dice([derive(seed, "rule")], "canaries", device=device)
    mine, order = inserted.nonzero()[:, 0], generator(seed, "batches")
    towards = F.normalize(1 / CLASSES - F.one_hot(labels, CLASSES), dim=1).T  # [C, m], of the gradients at zero weights
    scores = torch.zeros(canaries, dtype=torch.float64, device=device)
    absent, present = (scores.new_tensor(p).log() for p in (1 - sample_rate, sample_rate))
    for _ in range(steps):
        batch = mine[torch.rand(len(mine), generator=order) < sample_rate].to(device)  # [B]
        total = torch.zeros(1, CLASSES * canaries, device=device)
        for piece in batch.split(PIECE if device.type == "cpu" else GPU_CHUNK):  # each draws for itself
            images = torch.zeros(len(piece), 1, 1, canaries, device=device)
            images[torch.arange(len(piece), device=device), 0, 0, piece] = 1
            total += rule.add(stack, images, labels[piece], dice)
        given = rule.finish(total, torch.tensor([[len(batch)]], device=device), dice).view(CLASSES, canaries)
        found = (given * towards).sum(0).double() * claim.expected_batch / claim.clip  # [m]
        scores += torch.logaddexp(absent, present + (found - 0.5) / claim.noise_multiplier**2)
    return scores.cpu()


class Threshold(nn.Module):
    """By how much pixels exceed one half, ``scale`` times: images [B, ...] to [B, D]."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * F.relu(images.flatten(1) - 0.5)


@dataclass(frozen=True)
class BatchClipped:
    """A broken rule, for audits to catch: it clips the *batch's* mean gradient, and adds the noise of DP-SGD.

    One example can move the mean by the whole of ``clip``, and the noise hides a ``expected_batch``-th of that.

    Attributes:
        clip, noise_multiplier, expected_batch: as for :class:`labkit.training.Private`, whose epsilon it would claim.
    """

    clip: float
    noise_multiplier: float
    expected_batch: int

    def add(self, stack: Stack, images: Tensor, labels: Tensor, dice: Dice) -> Tensor:
        return stack.gradient(F.cross_entropy(stack(images), labels, reduction="sum"))

    def finish(self, total: Tensor, counts: Tensor, dice: Dice) -> Tensor:
        mean = total / self.expected_batch
        mean *= (self.clip / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        return mean + self.noise_multiplier * self.clip / self.expected_batch * dice.normal(*total.shape)
