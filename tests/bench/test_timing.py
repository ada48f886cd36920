"""Tasks take turns, and ratios are medians over the rounds."""

from __future__ import annotations

from sam_diffsr.bench.timing import median_ratio, medians, time_in_turns


def test_tasks_take_turns() -> None:
    seen: list[str] = []
    tasks = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    seconds = time_in_turns(tasks, repeats=3)
    assert "".join(seen) == "abababab"
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_busy_round_counts_once() -> None:
    seconds = {"ours": [1.0, 10.0, 2.0], "reference": [2.0, 10.0, 4.0]}
    assert median_ratio(seconds, "ours", "reference") == 0.5
    assert medians(seconds) == {"ours": 2.0, "reference": 4.0}
