"""Devices and seeds."""

import itertools

import pytest
import torch

from labkit import device


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device.resolve().type == kind
    assert device.resolve("cpu") == torch.device("cpu")


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        RuntimeError, match="device: 'cuda' was asked for, but torch sees no GPU here; use device: auto"
    ):
        device.resolve("cuda")


def test_every_purpose_has_a_seed_of_its_own() -> None:
    purposes = itertools.product(range(50), ("init", "batches", "noise"), range(50))
    seeds = [device.derive(seed, name, model) for seed, name, model in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert device.derive(0) == device.derive(0)


def test_a_generator_repeats_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    draws = [torch.randn(1000, generator=device.generator(3, name)) for name in ("init", "init", "noise")]
    assert torch.equal(draws[0], draws[1])
    assert abs(torch.corrcoef(torch.stack([draws[0], draws[2]]))[0, 1]) < 0.15
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_training_is_in_half_precision_where_it_is_native(native: bool, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    a = torch.ones(4, 4)
    with device.training_precision(torch.device("cpu")):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_half_precision_trains_without(native: bool, dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert device.training_dtype(torch.device("cuda")) == dtype


def test_how_sums_are_rounded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    assert device.numerics(torch.device("cuda")) == {"device": "cuda", "kernels": "A GPU", "deterministic": False}
    torch.use_deterministic_algorithms(True)
    try:
        kernels = torch.backends.cpu.get_cpu_capability()
        assert device.numerics(torch.device("cpu")) == {"device": "cpu", "kernels": kernels, "deterministic": True}
    finally:
        torch.use_deterministic_algorithms(False)


def test_free_memory_is_what_is_free_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GiB others hold 20, torch holds 6 and uses 2 of them."""
    gib, share = 1 << 30, 1.0
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", {3: (54 * gib, 80 * gib)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {3: 6 * gib}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {3: 2 * gib}.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: share)
    assert device.free_memory(torch.device("cuda")) == (54 + 4) * gib
    share = 0.1
    assert device.free_memory(torch.device("cuda")) == (2 + 4) * gib
    share = 0.05
    assert device.free_memory(torch.device("cuda", 3)) == 4 * gib


def test_the_hardware_has_a_name() -> None:
    assert (
        device.hardware_name(torch.device("cpu")).removesuffix(", AMX").endswith(f", {torch.get_num_threads()} threads")
    )
