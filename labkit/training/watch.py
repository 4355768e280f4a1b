"""What is seen of a model after an epoch, which of its states is kept, and how each image's loss went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.attacks.gradient import withstand
from labkit.attacks.promises import correct
from labkit.data import Dataset, Split
from labkit.workers import spread

Network = Callable[[int], nn.Module]  # a fresh network whose weights depend on the seed alone

VALIDATION_STEPS = 10  # of the PGD attack on validation images


@dataclass(frozen=True)
class Progress:
    """State after an epoch: loss and accuracy on the members (as trained on) and on the watched images.

    ``validation_accuracy`` and ``validation_robust``, under PGD-10 at the radius trained against, are of images of the
    training file that no model trains on; None where none were held out, or no radius is trained against.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    validation_accuracy: float | None = None
    validation_robust: float | None = None


class Best:
    """Of each model the state with the highest robust accuracy on validation images; the first of equals."""

    def __init__(self, models: int):
        self.highest = [-1.0] * models
        self.states: list[dict[str, Tensor]] = [{} for _ in range(models)]

    def offer(self, index: int, state: dict[str, Tensor], robust: float) -> None:
        """Keep a copy of ``state`` if it is the best so far."""
        if robust > self.highest[index]:
            self.highest[index] = robust
            self.states[index] = {name: part.clone() for name, part in state.items()}


def look(
    network: Network,
    state: dict[str, Tensor],
    data: Dataset,
    mine: Tensor,
    epoch: int,
    *,
    validation: Tensor | None = None,
    eps: float | None = None,
) -> Progress:
    """Loss and accuracy now; of the members a fixed sample as large as the test set at most.

    Args:
        network: makes the architecture.
        state: the parameters.
        data: training and test images.
        mine: indices of the members.
        epoch: how many are over.
        validation: indices of training images that are held out.
        eps: radius of the attack on them.
    """
    model = restored(network, state)
    figures = []
    for split in (data.train.chosen(mine[: len(data.test)]), data.test):
        logits = predict(model, split)
        figures += [
            F.cross_entropy(logits, split.labels).item(),
            (logits.argmax(1) == split.labels).float().mean().item(),
        ]
    if validation is None or eps is None:
        return Progress(epoch, *figures)
    held_out = data.train.chosen(validation)
    images, labels = held_out.batch(torch.arange(len(held_out), device=held_out.labels.device))
    stand = (
        correct(model, images, labels),
        withstand(model, images, labels, eps, steps=VALIDATION_STEPS, seed=0),  # the same starts after every epoch
    )
    return Progress(epoch, *figures, *(standing.double().mean().item() for standing in stand))


def milestones(epochs: int) -> tuple[int, ...]:
    """Epochs at which it is worth looking: 1, 2, 4, ... and the last."""
    return tuple(sorted({2**k for k in range(epochs.bit_length()) if 2**k <= epochs} | {epochs}))


def losses(network: Network, state: dict[str, Tensor], split: Split) -> Tensor:
    """Each image's own cross-entropy, in nats: [N] float32.

    From the odds in float64, so that a loss of 1e-30 is not rounded to 0: its logarithm tells members from others.
    """
    logits, label = predict(restored(network, state), split).double(), split.labels[:, None]
    odds = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).logsumexp(1)  # [N], their logarithm
    return -F.logsigmoid(odds).float()


def restored(network: Network, state: dict[str, Tensor]) -> nn.Module:
    """A network with these parameters, where they are; in eval mode, parameters frozen."""
    model = network(0)
    model.load_state_dict(state)
    device = next(iter(state.values())).device
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> Tensor:
    """Logits [N, C] of one model on a split, in float32."""
    device = split.pixels.device

    def logits(part: slice) -> Tensor:
        with torch.no_grad():  # a thread's own state
            return model(split.batch(torch.arange(part.start, part.stop, device=device))[0])

    return torch.cat(spread(logits, len(split), device))
