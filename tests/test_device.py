"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.device import resolve_device
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
