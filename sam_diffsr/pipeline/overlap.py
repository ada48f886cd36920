"""Reads, computes and writes batches at the same time, with at most one batch ahead and one behind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["overlapped"]

B = TypeVar("B")
R = TypeVar("R")
C = TypeVar("C")
W = TypeVar("W")


def overlapped(
    batches: Iterable[B], *, read: Callable[[B], R], compute: Callable[[R], C], write: Callable[[C], W]
) -> Iterator[W]:
    """Give ``write(compute(read(batch)))`` of every batch, in order.

    While the calling thread computes a batch, the one before it is written and the one after it is read, each
    in a thread of its own, in which torch computes with one thread. A single batch is done without threads.

    Args:
        batches: taken one by one, at most one ahead of the one that is computed.
        read: called in the reading thread.
        compute: called in the calling thread.
        write: called in the writing thread.

    Yields:
        What was written. An error of one of the functions is raised in its batch's place, after everything
        before it.
    """
    coming = iter(batches)
    batch, following = next(coming, None), next(coming, None)
    if batch is None:
        return
    if following is None:
        yield write(compute(read(batch)))
        return
    with _helper() as reader, _helper() as writer:
        ahead: Future[R] | None = reader.submit(read, batch)
        behind: Future[W] | None = None
        while ahead is not None:
            try:
                content = ahead.result()
                ahead = None if following is None else reader.submit(read, following)
                following = next(coming, None)
                computed = compute(content)
                del content  # a batch is not kept longer than it is needed
            except BaseException:
                if behind is not None:
                    yield behind.result()
                raise
            before, behind = behind, writer.submit(write, computed)
            del computed
            if before is not None:
                yield before.result()
        if behind is not None:
            yield behind.result()


@contextmanager
def _helper() -> Generator[ThreadPoolExecutor]:
    """An executor of one thread in which torch does not start threads of its own.

    Such threads would be more than there are cores, and from then on those of the caller no longer wait for
    each other awake, but sleep and are woken at every operation: a small network then takes twice as long.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_compute_alone).result()
        torch.set_num_threads(threads)  # it is a thread's own, but new threads begin with what was set last
        yield executor


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread takes over the number of the others when it first asks
    torch.set_num_threads(1)
