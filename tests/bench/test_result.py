"""Tasks take turns; every figure has a label; text shows figures, JSON holds everything."""

from __future__ import annotations

import json

import pytest
import torch

from sam_diffsr.bench import BenchResult, to_json
from sam_diffsr.bench.result import Timed, time_in_turns
from sam_diffsr.errors import ArgumentError

STEP = BenchResult(name="step", figures={"step_ratio": 0.5}, settings={"size": 8}, seconds={"step": 1.0})
MEMORY = BenchResult(
    name="memory",
    figures={"peak_memory_mb": None},
    tables={"memory": [{"size": 512, "used_mb": None}]},
    settings={},
)


def test_text() -> None:
    assert STEP.text() == "Denoising step, time relative to the reference (released architecture): 0.5"
    peak, title, _, _, row = MEMORY.text().splitlines()
    assert peak.endswith("(released architecture): not measured")
    assert title == "Memory beyond the loaded process, and time, per input size:"
    assert [cell.strip() for cell in row.split("|")] == ["", "512", "not measured", ""]


def test_json() -> None:
    data = json.loads(json.dumps(to_json([STEP, MEMORY], device="cpu")))
    assert data["step_ratio"] == 0.5
    assert data["memory"] == [{"size": 512, "used_mb": None}]
    assert data["settings"] == {"step": {"size": 8}, "memory": {}}
    assert data["seconds"] == {"step": {"step": 1.0}, "memory": {}}
    assert data["machine"]["threads"] == torch.get_num_threads()
    assert data["versions"]["sam-diffsr"]
    with pytest.raises(ArgumentError, match="CUDA devices"):
        to_json([STEP], device="cuda:99")


def test_tasks_take_turns() -> None:
    seen: list[str] = []
    tasks = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    seconds = time_in_turns("letters", tasks, repeats=3)
    assert "".join(seen) == "abababab"
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_busy_round_counts_once() -> None:
    timed = Timed({"ours": [1.0, 10.0, 2.0], "reference": [2.0, 10.0, 4.0]})
    assert timed.ratio("ours", "reference") == 0.5
    assert timed.medians() == {"ours": 2.0, "reference": 4.0}
