"""Makes the next training batch in a background thread while a step runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")


@contextmanager
def prefetch(make: Callable[[int], T], *, start: int, stop: int) -> Generator[Iterator[T], None, None]:
    """Call ``make(start)`` to ``make(stop - 1)`` in one background thread, one call ahead.

    Args:
        make: makes the batch of a step, such as ``source.host_batch``.
        start: first step.
        stop: step after the last one.

    Yields:
        An iterator over the results in order. An error of ``make`` is raised in the place of its result.
        Leaving the block ends the thread after its current call.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:

        def results() -> Iterator[T]:
            ahead = pool.submit(make, start)
            for step in range(start + 1, stop + 1):
                current = ahead
                if step < stop:
                    ahead = pool.submit(make, step)
                yield current.result()

        yield results() if start < stop else iter(())
