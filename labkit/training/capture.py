"""A GPU's step recorded once and replayed: a small model's step is bound by the time its launches take."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Step = Callable[[Tensor, Tensor], None]

_WARM = 3  # steps taken as usual first: libraries choose their kernels and allocate their workspaces there


def captured(step: Step, generators: Sequence[torch.Generator]) -> Step:
    """``step(batch, rate)`` as a CUDA graph for each shape of its arguments.

    The first steps of a shape run as usual. Where capture fails, the steps go on running as usual, and the log says so.

    Args:
        step: works in place on tensors that stay where they are, and reads nothing back from the GPU.
        generators: all that it draws from, on the GPU.
    """
    seen: dict[tuple[int, ...], int] = {}
    graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
    failed = False

    def run(batch: Tensor, rate: Tensor) -> None:
        nonlocal failed
        shape = tuple(batch.shape)
        seen[shape] = seen.get(shape, 0) + 1
        if failed or seen[shape] <= _WARM:
            step(batch, rate)
            return
        if shape not in graphs:
            try:
                graphs[shape] = _record(step, generators, batch, rate)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                failed = True
                log.warning("a training step could not be captured (%s); going on without", error)
        if failed:  # out of the handler, where the error would hold what the attempt had allocated
            step(batch, rate)
            return
        graph, batch_in, rate_in = graphs[shape]
        batch_in.copy_(batch)
        rate_in.copy_(rate)
        graph.replay()

    return run


def abreast(works: Sequence[Callable[[], Tensor]], streams: Sequence[torch.cuda.Stream]) -> list[Tensor]:
    """What each work gives, in order: each on a stream of its own, or one after another where there are none.

    A small model leaves most of a GPU idle. The streams part from the current one and join it again, so that a step
    can be captured with all of them, and what works made may be used as if they had run here.
    """
    if not streams:
        return [work() for work in works]
    here, found, begun = torch.cuda.current_stream(), [], []
    try:
        for work, stream in zip(works, streams, strict=True):
            stream.wait_stream(here)
            begun.append(stream)
            with torch.cuda.stream(stream):
                found.append(work())
    except BaseException:
        # A capture that ends with streams at large would hide the error: out of memory is not "cannot be captured".
        for stream in begun:
            with suppress(RuntimeError):
                here.wait_stream(stream)
        raise
    for stream in begun:
        here.wait_stream(stream)
    return found


def _record(
    step: Step, generators: Sequence[torch.Generator], batch: Tensor, rate: Tensor
) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    """The graph of a step, and the tensors that it reads; recording does not run it."""
    graph = torch.cuda.CUDAGraph()
    for draw in generators:
        graph.register_generator_state(draw)
    inputs = batch.clone(), rate.clone()
    with torch.cuda.graph(graph):
        step(*inputs)
    return graph, *inputs
