"""Commands keep freed memory for the next image, where the C library can be told so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sam_diffsr.cli import app, heap, main

GLIBC = platform.libc_ver()[0] == "glibc"


class Recorder:
    """A C library that remembers what ``mallopt`` was told."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}

    def mallopt(self, name: int, value: int) -> int:
        self.told[name] = value
        return 1


def test_the_c_library_is_told_both_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are those of glibc's malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    library = Recorder()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(heap.sys, "platform", "linux")
    assert heap.keep_freed_memory() is True
    assert library.told == {-1: 256 * 2**20, -3: 32 * 2**20}
    library.told.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    assert heap.keep_freed_memory() is False
    assert not library.told


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_glibc_accepts_them() -> None:
    """In a process of its own: the setting stays."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    code = "from sam_diffsr.cli.heap import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.keep_freed_memory() is False
    monkeypatch.setattr(heap.sys, "platform", "win32")
    assert heap.keep_freed_memory() is False


def test_only_a_process_of_the_command_is_set(monkeypatch, capsys) -> None:
    calls: list[int] = []
    monkeypatch.setattr(app, "keep_freed_memory", lambda: calls.append(1))
    main(["info"])
    assert not calls
    monkeypatch.setattr(sys, "argv", ["sam-diffsr", "info"])
    main()
    assert calls == [1]
