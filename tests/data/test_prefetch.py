"""Results come in order, ahead of time, with their errors; the thread ends with the block."""

from __future__ import annotations

import threading
import time

import pytest

from sam_diffsr.data import prefetch


def alive() -> bool:
    return any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_in_order_from_start_to_stop() -> None:
    with prefetch(lambda step: step * step, start=3, stop=9) as squares:
        assert list(squares) == [9, 16, 25, 36, 49, 64]
    assert not alive()


def test_runs_ahead_but_not_for_ever() -> None:
    made: list[int] = []
    with prefetch(lambda step: made.append(step) or step, start=0, stop=9) as results:
        assert next(results) == 0
        deadline = time.monotonic() + 5
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert made == [0, 1]  # one taken, one waiting
    assert not alive()


@pytest.mark.parametrize("kind", [ValueError, StopIteration, KeyboardInterrupt])
def test_error_comes_where_the_result_would_have(kind: type[BaseException]) -> None:
    def make(step: int) -> int:
        if step == 2:
            raise kind("broken")
        return step

    with prefetch(make, start=0, stop=9) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(RuntimeError if kind is StopIteration else kind):
            next(results)
    assert not alive()


def test_thread_ends_when_the_block_is_left_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), prefetch(lambda step: step, start=0, stop=9):
        _ = 1 / 0
    assert not alive()


def test_nothing_left_to_make() -> None:
    with prefetch(lambda step: step, start=3, stop=3) as results:
        assert list(results) == []
