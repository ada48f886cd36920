"""Host batches made ahead of the training step, in one thread with a short queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sam_diffsr.errors import ArgumentError

__all__ = ["prefetch"]

T = TypeVar("T")


@dataclass
class _Result(Generic[T]):
    """What one call gave, or its error; neither is the end."""

    values: list[T] = field(default_factory=list[T])
    error: BaseException | None = None


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
        An iterator over the results in order; an error of ``make`` is raised where its result would have
        come. Leaving the block ends the thread after the call that it is in.

    Raises:
        ArgumentError: ``depth`` is less than 1.
    """
    if depth < 1:
        raise ArgumentError(f"depth must be at least 1, got {depth}")
    ready: queue.Queue[_Result[T]] = queue.Queue(depth)
    leaving = threading.Event()

    def put(item: _Result[T]) -> bool:
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
                item = _Result([make(step)])
            except BaseException as error:
                put(_Result(error=error))
                return
            if not put(item):
                return
            step += 1
        put(_Result())

    def results() -> Iterator[T]:
        while True:
            item = ready.get()
            if item.error is not None:
                raise item.error
            if not item.values:
                return
            yield item.values[0]

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        leaving.set()
        thread.join()
