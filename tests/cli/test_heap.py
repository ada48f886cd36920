"""Commands keep freed memory for the next image, where the C library can be told so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sam_diffsr.cli import app, heap

GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource
import torch
from sam_diffsr.cli.heap import keep_freed_memory

{setting}
torch.set_num_threads(1)
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(5 * 2**20) for _ in range(8)]  # 20 MB each
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str, **variables: str) -> int:
    code = FAULTS.format(setting=setting)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_pages_are_given_out_once() -> None:
    assert faults("assert keep_freed_memory()") < 1000
    assert faults("assert not keep_freed_memory()", MALLOC_ARENA_MAX="8") > 3000


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
    app.main(["info"])
    assert not calls
    monkeypatch.setattr(sys, "argv", ["sam-diffsr", "info"])
    app.main()
    assert calls == [1]
