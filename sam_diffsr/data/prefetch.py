"""Host batches made ahead of the training step, in one thread with a short queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sam_diffsr.errors import ArgumentError

__all__ = ["prefetch"]

T = TypeVar("T")


class _End(Exception):
    """Nothing follows."""


@contextmanager
def prefetch(
    make: Callable[[int], T], *, start: int, stop: int | None = None, depth: int = 2
) -> Generator[Iterator[T], None, None]:
    """Call ``make(start)``, ``make(start + 1)``, ... in a background thread, a few calls ahead.

    Args:
        make: gives what belongs to a step, such as ``source.host_batch``.
        start: first step.
        stop: the step after the last one; None goes on for ever.
        depth: how many results may wait, >= 1.

    Yields:
        An iterator over the results in order. An error of ``make`` is raised where its result would have come.
        Leaving the block ends the thread after the call that it is in.

    Raises:
        ArgumentError: ``depth`` is less than 1.
    """
    if depth < 1:
        raise ArgumentError(f"depth must be at least 1, got {depth}")
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    leaving = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not leaving.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        step = start
        while stop is None or step < stop:
            try:
                result = make(step)
            except BaseException as error:
                put((None, error))
                return
            if not put((result, None)):
                return
            step += 1
        put((None, _End()))

    def results() -> Iterator[T]:
        while True:
            result, error = ready.get()
            if isinstance(error, _End):
                return
            if error is not None:
                raise error
            yield result  # pyright: ignore[reportReturnType]  # None only beside an error

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        leaving.set()
        thread.join()
