"""Pieces of work spread over the hardware: on the CPU one thread a piece and one core a thread, on a GPU large chunks.

Two threads that share one operation on a small batch wait for each other more than they compute; two that have a
piece each do not (measured on two cores: 1.3 to 1.8 times the speed). A piece is computed by one core whatever the
number of cores, and results are joined in the order of the pieces: so they do not depend on the machine's size.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar
from functools import cache
from itertools import count, pairwise
from typing import Any, TypeVar

import torch

from labkit.device import free_memory

log = logging.getLogger(__name__)

PIECE = 64  # images a core computes at once: what fits its cache in float32
LEAST = 16  # images below which a piece is not worth a core
GPU_CHUNK = 4096  # images a GPU computes at once, if its memory holds them
FEW = 512  # images for which its memory is not asked: that takes as long as a small network does
IMAGE_BYTES = 3 << 19  # what one of them takes, rather less (measured, in MiB: bounds or gradients 0.6, scattering 1.2)
MOST_THREADS = 16  # beyond, the interpreter's lock is the limit

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew:
    """Threads that have ``each`` cores; the calling thread, which enters it, is one of them.

    It keeps to them until it leaves: to give cores back and take them again for every piece costs as much as
    small pieces do (measured on two cores: half the speed). A crew that is made in another one's thread ends with it.

    Args:
        size: number of threads, at least 1; by default as many as torch may use.
        each: cores that torch, and crews within this one, may use in each of them.
    """

    def __init__(self, size: int | None = None, each: int = 1):
        self.size, self.each = max(1, min(size or torch.get_num_threads(), MOST_THREADS)), each
        self._outer = _CREW.get()
        self._stop = threading.Event()
        helpers = {"initializer": torch.set_num_threads, "initargs": (each,)}
        self._pool = ThreadPoolExecutor(self.size - 1, **helpers) if self.size > 1 else None

    def __enter__(self) -> Crew:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.each)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)
        self._stop.set()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``[function(item) for item in items]``; an exception in one of them stops the others.

        It is raised when all have ended; the crew can go on with other work then.
        """
        self.check()
        results: list[Any] = [None] * len(items)
        failures: list[BaseException] = []
        turn = count()  # next() is atomic

        def work() -> None:
            token = _CREW.set(self)
            try:
                while (index := next(turn)) < len(items) and not self._stop.is_set():
                    results[index] = function(items[index])
            except BaseException as failure:
                failures.append(failure)
                self._stop.set()
            finally:
                _CREW.reset(token)

        helpers = [self._pool.submit(work) for _ in range(min(self.size, len(items)) - 1)] if self._pool else []
        work()
        wait(helpers)
        if failures:
            self._stop.clear()
            try:
                # What stopped the crew, not what that did to the others.
                raise next((f for f in failures if not isinstance(f, Stopped)), failures[0])
            finally:
                # A failure that this frame, which is in its traceback, held would keep all that its frames hold.
                failures.clear()
        return results

    def check(self) -> None:
        """To be called now and then by long work: ends it where another thread of the crew has failed.

        Raises:
            Stopped: it has.
        """
        if self._stop.is_set():
            raise Stopped("another thread of the crew has failed or was interrupted")
        if self._outer:
            self._outer.check()


class Stopped(RuntimeError):
    """Work given up because a thread beside it failed."""


_CREW: ContextVar[Crew | None] = ContextVar("crew", default=None)  # whose work this thread does


def check_crew() -> None:
    """:meth:`Crew.check` of the crew whose work this thread does, if there is one."""
    if crew := _CREW.get():
        crew.check()


def spread(function: Callable[[slice], Result], n: int, device: torch.device) -> list[Result]:
    """``function`` of slices that cover ``range(n)`` in order.

    On the CPU each slice is one of :func:`pieces` and has a core. On a GPU they are as long as its free memory allows:
    where it runs out all the same, the length is halved, which is logged, and the work goes on.

    Raises:
        torch.OutOfMemoryError: a single image is too much.
    """
    if device.type == "cpu":
        parts = pieces(n)
        with Crew(min(len(parts), torch.get_num_threads()) or 1) as crew:
            return crew.map(function, parts)
    results, start, length = [], 0, n if n <= FEW else chunk(device)
    while start < n:
        try:
            results.append(function(slice(start, min(start + length, n))))
            start += length
            continue
        except torch.OutOfMemoryError:
            length = halved(length, f"{device} ran out of memory on {length} images at once")
        give_memory_back()
    return results


def share(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """``[function(item) for item in items]``, each long work: they share a CPU's cores, or take turns on a GPU.

    Measured on a GPU, six trainings at once, a stream each, took as long as one after another.
    """
    cores = torch.get_num_threads()
    at_once = max(1, min(len(items), cores)) if device.type == "cpu" else 1
    if torch.cuda.is_initialized():
        _load_linalg()
    with Crew(at_once, each=cores // at_once) as crew:
        return crew.map(function, items)


@cache
def _load_linalg() -> None:
    """Of a GPU's linear algebra, a library that is loaded when it is first used: by one thread, or that fails."""
    torch.linalg.cholesky(torch.ones(1, 1, device="cuda"))


def pieces(n: int) -> list[slice]:
    """Slices that cover ``range(n)`` in order, all but equally long, at most :data:`PIECE`; they depend on n alone.

    Their number is a multiple of four where there is work enough, so that two or four cores end together: of 84 images
    in pieces of 64 and 20 one core would do three quarters.
    """
    count = max(1, min(4 * math.ceil(n / (4 * PIECE)), n // LEAST)) if n else 0
    ends = [round(index * n / count) for index in range(count + 1)] if n else []
    return [slice(start, end) for start, end in pairwise(ends)]


def chunk(device: torch.device) -> int:
    """How many images a core, or a GPU, may compute at once: far fewer leave it idle for a part of the time.

    Where numbers are to be bit-equal they are as many whatever memory is free.
    """
    if device.type == "cpu":
        return PIECE
    return GPU_CHUNK if torch.are_deterministic_algorithms_enabled() else fitting(GPU_CHUNK, IMAGE_BYTES, device)


def fitting(most: int, each: int, device: torch.device) -> int:
    """How many pieces of ``each`` bytes a GPU's free memory holds: ``most``, or the largest power of two below."""
    held = max(1, free_memory(device) // each)
    return most if held >= most else 1 << held.bit_length() - 1


def give_memory_back() -> None:
    """Let go of work that is over; of a failed one when its error, which holds its frames, is no longer handled."""
    gc.collect()  # recorded steps and gradients' graphs are in cycles
    torch.cuda.empty_cache()  # pieces of the sizes that were too large


def halved(size: int, what: str) -> int:
    """Half of ``size``, said in the log; to be called while an out-of-memory error is handled, which goes on at 1."""
    if size == 1:
        raise  # the error that is being handled
    log.warning("%s; going on with %d", what, size // 2)
    return size // 2
