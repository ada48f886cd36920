"""Tasks take turns, and ratios are medians over the rounds."""

from __future__ import annotations

import pytest

from sam_diffsr.bench.timing import median_ratio, medians, time_in_turns


@pytest.mark.parametrize(("warm_up", "order"), [(True, "abababab"), (False, "ababab")])
def test_tasks_take_turns(warm_up, order) -> None:
    seen: list[str] = []
    tasks = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    seconds = time_in_turns(tasks, repeats=3, warm_up=warm_up)
    assert "".join(seen) == order
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_busy_round_counts_once() -> None:
    seconds = {"ours": [1.0, 10.0, 2.0], "reference": [2.0, 10.0, 4.0]}
    assert median_ratio(seconds, "ours", "reference") == 0.5
    assert medians(seconds) == {"ours": 2.0, "reference": 4.0}
