"""Many models trained as one: ``members[M, N]`` says who trains on what, ``logits[M, N, C]`` come out.

A piece of training is a value: recipe, data, members and seed determine it. So each model of an ensemble is
its own entry in the store, and a run that is killed goes on with the next model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from labkit.data import Dataset, Split
from labkit.device import derive, numerics, training_dtype
from labkit.networks import build
from labkit.progress import Bar, Tick, unseen
from labkit.store import Store, checksum, code_version
from labkit.training.loop import fit
from labkit.training.regimes import Recipe
from labkit.training.schedule import MODEL_BYTES, WAVE, Entry, one_a_core, side_by_side
from labkit.training.watch import Network, Progress, predict, restored
from labkit.workers import Crew, fitting

LOSSES = "losses"  # in the store, beside a model's parameters


@dataclass(frozen=True)
class Ensemble:
    """M trained classifiers.

    Attributes:
        recipe: how they were trained.
        members: bool [M, N]; which training images each one saw.
        states: M dictionaries of parameters, float32.
        histories: M lists of :class:`Progress`, empty where nothing was watched.
        losses: [M, T, N], cross-entropy of every training image (nats) after each of the T epochs in ``trace``.
        trace: T epochs.
        seconds: M training times, as measured when they were trained: of models side by side, the share of each; on a
            CPU times the cores that worked on the model.
        device: where they run.
        network: makes the architecture, from a seed.
    """

    recipe: Recipe
    members: Tensor
    states: list[dict[str, Tensor]]
    histories: list[list[Progress]]
    losses: Tensor
    trace: tuple[int, ...]
    seconds: list[float]
    device: torch.device
    network: Network = build

    def __len__(self) -> int:
        return len(self.states)

    def model(self, index: int) -> nn.Module:
        """One of the models, in eval mode, parameters frozen."""
        return restored(self.network, {name: part.to(self.device) for name, part in self.states[index].items()})

    def models(self) -> Iterator[nn.Module]:
        """The models, one after another."""
        return (self.model(index) for index in range(len(self)))

    def logits(self, split: Split) -> Tensor:
        """Logits [M, N, C] of all models on a split, float32, on the CPU."""
        return torch.stack([predict(model, split).cpu() for model in self.models()])


def train(
    recipe: Recipe,
    data: Dataset,
    members: Tensor,
    *,
    seed: int,
    store: Store,
    device: torch.device,
    network: Network = build,
    watch: bool = False,
    validation: Tensor | None = None,
    trace: Sequence[int] = (),
    bar: Bar = unseen,
) -> Ensemble:
    """Train one model for each row of ``members``, or take it from the store.

    On the CPU the models are shared out to the cores, a core a model (measured: faster than all cores on one model,
    or than models side by side); where there are fewer models than cores, several cores share the pieces of a model's
    batches, if there are several. On a GPU they are trained side by side, in waves of at most :data:`WAVE`, fewer
    where its memory allows no more.

    Args:
        recipe: the regime and its settings.
        data: training images (and test images, to be watched: nothing is selected on them).
        members: bool [M, N], N the number of training images; a row needs at least one member.
        seed: with the row's index it determines the model.
        store: where finished models lie.
        device: where to train.
        network: makes a fresh network from a seed.
        watch: note loss and accuracy on members and test images after every epoch.
        validation: bool [N], training images that are held out and watched too; see :func:`labkit.training.loop.fit`.
        trace: epochs, ascending, after which the loss of every training image is noted; see :func:`milestones`.
        bar: shown where there is something to train, of the images of all steps.

    Raises:
        ValueError: members of the wrong shape, a model without members, or validation images that are members.
        FloatingPointError: a training that diverged.
    """
    if members.ndim != 2 or members.shape[1] != len(data.train) or members.dtype != torch.bool:
        raise ValueError(f"members is {members.dtype} {list(members.shape)}; need bool [models, {len(data.train)}]")
    if not members.any(1).all():
        raise ValueError("a row of members is empty: every model needs at least one training image")
    members = members.cpu()
    if validation is not None and (members & validation).any():
        raise ValueError(f"{int((members & validation).any(0).sum())} validation images are members too; hold them out")
    held_out = None if validation is None else validation.nonzero()[:, 0]
    common = {
        "recipe": repr(recipe),
        "network": repr(network(0)),
        "data": data.sha256,
        "seed": seed,
        "watch": watch,
        "trace": list(trace),
        "validation": None if held_out is None else held_out.tolist(),
        "dtype": str(training_dtype(device)),
        **numerics(device),
        "code": code_version(__name__),
    }
    keys = [{**common, "index": index, "members": checksum(row)} for index, row in enumerate(members)]

    def make(indices: Sequence[int], crew: Crew, piece: int | None, tick: Tick) -> list[Entry]:
        start = time.perf_counter()
        rows, seeds = members[list(indices)], [derive(seed, recipe.regime, index) for index in indices]
        see = {"watch": watch, "validation": held_out, "trace": trace}
        fitted = fit(network, recipe, data, rows, seeds, device, crew=crew, piece=piece, tick=tick, **see)
        shared = min(crew.size, math.ceil(recipe.batch_size / recipe.piece))  # cores that pieces of a batch occupy
        seconds = (time.perf_counter() - start) * shared / len(indices)
        histories = [[asdict(p) for p in history] for history in fitted.histories]
        kept = [
            state | {LOSSES: torch.stack(noted)} if noted else state
            for state, noted in zip(fitted.states, fitted.losses, strict=True)
        ]
        return [(s, {"seconds": seconds, "history": h}) for s, h in zip(kept, histories, strict=True)]

    entries = [store.find("classifier", key) for key in keys]

    def keep(index: int, made: Callable[[], Entry]) -> None:
        entries[index] = store.get("classifier", keys[index], made)

    if missing := [index for index, entry in enumerate(entries) if entry is None]:
        with bar(sum(recipe.steps(int(members[index].sum())) for index in missing) * recipe.batch_size) as tick:
            if device.type == "cpu":
                one_a_core(make, keep, missing, tick)
            else:
                # What stands beside a model of DP-SGD decides how its sums are rounded.
                at_once = 1 if common["deterministic"] else fitting(WAVE, MODEL_BYTES, device)
                side_by_side(make, keep, missing, tick, at_once)
    noted = [state.pop(LOSSES, torch.empty(0, len(data.train))) for state, _ in entries]
    return Ensemble(
        recipe,
        members,
        [state for state, _ in entries],
        [[Progress(**p) for p in facts["history"]] for _, facts in entries],
        torch.stack(noted),
        tuple(trace),
        [facts["seconds"] for _, facts in entries],
        device,
        network,
    )
