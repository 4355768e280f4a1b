"""cuda or cpu, precision, seeding, and what the hardware is called."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch


def resolve(name: str = "auto", *, deterministic: bool = False) -> torch.device:
    """The device to run on: ``auto`` is cuda where there is one.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
        deterministic: on a GPU, kernels whose sums do not depend on the order in which they happen to end. On the CPU
            that is so anyway.

    Raises:
        RuntimeError: ``cuda`` was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device: 'cuda' was asked for, but torch sees no GPU here; use device: auto or cpu")
    if name == "cuda":
        # What is reported is float32; TF32 would keep 10 bits of its 23.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        if deterministic != torch.are_deterministic_algorithms_enabled():  # to be told so loads torch's compiler
            torch.use_deterministic_algorithms(deterministic)
    return torch.device(name)


def hardware_name(device: torch.device) -> str:
    """The GPU's name, or the processor's, its number of usable cores, and its matrix units where it has some."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told: dict[str, str] = {}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = told.get("model name") or platform.processor() or platform.machine()
    units = ", AMX" if "amx_bf16" in told.get("flags", "").split() else ""
    return f"{model}, {torch.get_num_threads()} threads{units}"


def derive(seed: int, *names: object) -> int:
    """A seed for one purpose, from the run's seed and the purpose's names; independent across names.

    Two purposes never share a stream by adding small numbers to one seed: the names are hashed.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` for one purpose (see :func:`derive`)."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def numerics(device: torch.device) -> dict[str, str | bool]:
    """What torch tells of the hardware, and of how it is used, that decides how sums are rounded: part of every key of
    the store."""
    kernels = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "kernels": kernels,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process may still take: what nobody holds, and what torch holds and does not use.

    A limit that was set by ``torch.cuda.set_per_process_memory_fraction`` counts.
    """
    index = torch.cuda.current_device() if device.index is None else device.index  # some of these take nothing else
    free, total = torch.cuda.mem_get_info(index)
    held, used = torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index)
    granted = int(torch.cuda.get_per_process_memory_fraction(index) * total) - held
    return max(0, min(free, granted)) + held - used


def training_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies bf16 natively; elsewhere float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def training_precision(device: torch.device) -> AbstractContextManager:
    """Autocast to :func:`training_dtype`. For training only: what is reported about a model is computed in float32."""
    dtype = training_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
