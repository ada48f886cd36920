"""Devices and floating types by name, and memory layouts."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.device import network_layout, resolve_device, resolve_dtype
from sam_diffsr.errors import ArgumentError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def have(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


def test_auto_takes_the_fastest(machine):
    machine(cuda=2, mps=True)
    assert resolve_device("auto") == GPU
    machine(mps=True)
    assert resolve_device("auto").type == "mps"
    machine()
    assert resolve_device("auto") == CPU


def test_devices_can_be_named(machine):
    machine(cuda=2, mps=True)
    assert resolve_device("cuda") == GPU
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device(torch.device("mps")).type == "mps"
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", r"device must be 'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or a torch\.device, got 'gpu'"),
        (1.5, r"device must be 'auto'.*got 1\.5"),
        ("cuda", r"device 'cuda' was asked for, but torch sees 0 CUDA devices; use device='auto'"),
        ("mps", r"device 'mps' was asked for, but this machine has none"),
        ("meta", r"device 'meta' cannot be used here \(.+\); use device='auto'"),
        ("hpu", r"device 'hpu' cannot be used here \(.+\); use device='auto'"),
    ],
)
def test_devices_that_are_not_there_are_refused(machine, device, message):
    machine()
    with pytest.raises(ArgumentError, match=message):
        resolve_device(device)


def test_a_gpu_too_many_is_refused(machine):
    machine(cuda=2)
    with pytest.raises(ArgumentError, match=r"device 'cuda:2' was asked for, but torch sees 2 CUDA devices"):
        resolve_device("cuda:2")


def test_the_type_depends_on_the_device():
    assert resolve_dtype("auto", CPU) == resolve_dtype("auto", torch.device("mps")) == torch.float32
    assert resolve_dtype("auto", GPU) == resolve_dtype("fp16", GPU) == torch.float16
    assert resolve_dtype("bf16", CPU) == torch.bfloat16
    assert resolve_dtype(torch.float32, GPU) == torch.float32
    assert network_layout(CPU) == network_layout(GPU) == torch.channels_last
    assert network_layout(torch.device("mps")) == torch.contiguous_format


@pytest.mark.parametrize("dtype", ["float8", torch.float64, torch.int8, None])
def test_other_types_are_refused(dtype):
    with pytest.raises(
        ArgumentError, match=r"dtype must be one of auto, fp32, fp16, bf16 or the torch\.dtype"
    ):
        resolve_dtype(dtype, CPU)


def test_half_precision_is_not_for_cpus():
    with pytest.raises(ArgumentError, match=r"float16 is too slow on a CPU to be useful; use dtype='fp32'"):
        resolve_dtype("fp16", CPU)


def test_auto_is_the_same_on_every_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert resolve_dtype("auto", CPU) == torch.float32
