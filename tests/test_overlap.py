"""Batches come in order while three threads work, and errors in their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from sam_diffsr.overlap import overlapped


def test_all_batches_come_in_order() -> None:
    for count in range(5):
        result = overlapped(
            range(count), read=str, compute=lambda text: text + "c", write=lambda text: text + "w"
        )
        assert list(result) == [f"{index}cw" for index in range(count)]


def test_reading_computing_and_writing_go_on_at_the_same_time_and_not_far_apart() -> None:
    """Each waits for another that must be at work meanwhile: one after the other would never end."""
    read, computed, written = ([threading.Event() for _ in range(6)] for _ in range(3))
    taken: list[int] = []
    threads: dict[str, set[int]] = {"read": set(), "compute": set(), "write": set()}

    def note(task: str) -> None:
        threads[task].add(threading.get_ident())

    def batches() -> Iterator[int]:
        for index in range(6):
            taken.append(index)
            yield index

    def reading(index: int) -> int:
        note("read")
        read[index].set()
        return index

    def compute(index: int) -> int:
        note("compute")
        assert index == 5 or read[index + 1].wait(20), "the next one is read"
        assert len(taken) <= index + 3
        computed[index].set()
        return index

    def write(index: int) -> int:
        note("write")
        assert index == 5 or computed[index + 1].wait(20), "the next one is computed"
        written[index].set()
        return index

    for index in overlapped(batches(), read=reading, compute=compute, write=write):
        assert written[index].is_set()
        assert not any(event.is_set() for event in computed[index + 2 :])
    assert threads["compute"] == {threading.get_ident()}
    assert [len(found) for found in threads.values()] == [1, 1, 1]
    assert len(set.union(*threads.values())) == 3


@pytest.mark.parametrize("failing", ["read", "compute", "write"])
@pytest.mark.parametrize("count", [1, 4])
def test_an_error_comes_after_what_was_finished_before_it(failing: str, count: int) -> None:
    bad = min(2, count - 1)

    def step(task: str):
        def work(index: int) -> int:
            if task == failing and index == bad:
                raise ValueError(f"{task} of {index}")
            return index

        return work

    results = overlapped(range(count), read=step("read"), compute=step("compute"), write=step("write"))
    assert [next(results) for _ in range(bad)] == list(range(bad))
    with pytest.raises(ValueError, match=f"{failing} of {bad}"):
        next(results)


def test_one_batch_needs_no_thread() -> None:
    (idents,) = overlapped(
        [0],
        read=lambda _: [threading.get_ident()],
        compute=lambda found: [*found, threading.get_ident()],
        write=lambda found: {*found, threading.get_ident()},
    )
    assert idents == {threading.get_ident()}


def test_only_the_caller_computes_with_several_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        used = overlapped(
            range(3),
            read=lambda _: [torch.get_num_threads()],
            compute=lambda found: [*found, torch.get_num_threads()],
            write=lambda found: [*found, torch.get_num_threads()],
        )
        assert list(used) == [[1, 3, 1]] * 3
        assert torch.get_num_threads() == 3
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3], "threads of the caller's own are left alone"
    finally:
        torch.set_num_threads(before)
