"""Makes the next training batches in a background thread while a step runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from sam_diffsr.errors import ArgumentError

__all__ = ["prefetch"]

T = TypeVar("T")


@contextmanager
def prefetch(
    make: Callable[[int], T], *, start: int, stop: int | None = None, depth: int = 2
) -> Generator[Iterator[T], None, None]:
    """Call ``make(start)``, ``make(start + 1)``, ... in one background thread, a few calls ahead.

    Args:
        make: makes the batch of a step, such as ``source.host_batch``.
        start: first step.
        stop: step after the last one; None never ends.
        depth: batches made ahead of the one in use, >= 1.

    Yields:
        An iterator over the results in order. An error of ``make`` is raised in the place of its result.
        Leaving the block ends the thread after its current call.

    Raises:
        ArgumentError: ``depth`` is less than 1.
    """
    if depth < 1:
        raise ArgumentError(f"depth must be at least 1, got {depth}")
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()
    step = start

    def fill() -> None:
        nonlocal step
        while len(waiting) < depth and (stop is None or step < stop):
            waiting.append(pool.submit(make, step))
            step += 1

    def results() -> Iterator[T]:
        while waiting:
            result = waiting.popleft()
            fill()
            yield result.result()

    try:
        fill()
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
