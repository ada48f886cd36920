"""Free memory of systems, containers and devices; what counts as running out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sam_diffsr.device import free_memory, is_out_of_memory, release_memory

CPU = torch.device("cpu")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       8000 kB\nMemFree: 1000 kB\nMemAvailable:    5000 kB\n"}


def test_this_machine_has_some():
    assert 2**20 < free_memory(CPU) < 2**50


def test_linux_says_what_is_available(tmp_path: Path):
    assert free_memory(CPU, root=write(tmp_path, MEMINFO)) == 5000 * 1024


def test_a_containers_limit_counts_but_not_what_it_can_drop(tmp_path: Path):
    group = "sys/fs/cgroup/memory"
    files = {f"{group}.max": "3000000\n", f"{group}.current": "2000000\n", f"{group}.stat": "anon 5\n"}
    assert free_memory(CPU, root=write(tmp_path, {**MEMINFO, **files})) == 1_000_000
    write(tmp_path, {f"{group}.stat": "anon 5\ninactive_file 400000\nactive_file 7\n"})
    assert free_memory(CPU, root=tmp_path) == 1_400_000
    write(tmp_path, {f"{group}.max": "max\n"})
    assert free_memory(CPU, root=tmp_path) == 5000 * 1024


def test_version_one_of_control_groups_is_read_too(tmp_path: Path):
    group = "sys/fs/cgroup/memory/memory"
    files = {f"{group}.limit_in_bytes": "3000000", f"{group}.usage_in_bytes": "2900000"}
    assert free_memory(CPU, root=write(tmp_path, {**MEMINFO, **files})) == 100_000


def test_other_systems_are_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert free_memory(CPU, root=tmp_path) == 1000 * 4096 // 2

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert free_memory(CPU, root=tmp_path) == 4 * 2**30


def test_what_torch_holds_unused_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_memory(torch.device("cuda", 0)) == 130
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 100, raising=False)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 130)
    assert free_memory(torch.device("mps")) == 0


def test_torch_2_4_cannot_say_what_mps_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delattr(torch.mps, "recommended_max_memory", raising=False)
    assert free_memory(torch.device("mps"), root=write(tmp_path, MEMINFO)) == 5000 * 1024


def test_the_cache_of_the_right_device_is_emptied(monkeypatch: pytest.MonkeyPatch):
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    for name in ("cpu", "cuda", "mps"):
        release_memory(torch.device(name))
    assert emptied == ["cuda", "mps"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_mean_too_little_memory(error: BaseException, expected: bool):
    assert is_out_of_memory(error) is expected


def test_torch_itself_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
