"""Reading, computing and writing at the same time, each in a thread of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


def overlapped(
    batches: Iterable[A], *, read: Callable[[A], B], compute: Callable[[B], C], write: Callable[[C], D]
) -> Iterator[D]:
    """Give ``write(compute(read(batch)))`` of every batch, in order.

    While the calling thread computes a batch, the one before it is written and the one after it is read, each
    in a thread of its own, in which torch computes with one thread. A single batch is done without threads.
    An error is raised in its batch's place, after everything before it.
    """
    coming = iter(batches)
    first = list(itertools.islice(coming, 2))
    if len(first) < 2:
        yield from (write(compute(read(batch))) for batch in first)
        return
    with helper() as reader, helper() as writer:
        contents = one_ahead(reader, read, itertools.chain(first, coming))
        yield from one_ahead(writer, write, map(compute, contents))


def one_ahead(executor: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """``map`` in another thread, which is one item ahead of what is given out."""
    iterator = iter(items)
    ahead: Future[B] | None = None
    while True:
        result, ahead = ahead, None
        try:
            ahead = executor.submit(function, next(iterator))
        except StopIteration:
            pass
        except BaseException as error:  # comes after the result before it, and ends the items
            iterator, ahead = iter(()), Future[B]()
            ahead.set_exception(error)
        if result is not None:
            yield result.result()
        elif ahead is None:
            return


@contextmanager
def helper() -> Generator[ThreadPoolExecutor]:
    """An executor of one thread in which torch does not start threads of its own.

    Such threads would be more than there are cores. The caller's own threads would then sleep between
    operations instead of spinning, and a small network would take twice as long.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(torch.get_num_threads).result()  # takes over the number of the others, the first time
        executor.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)  # it is a thread's own, but new threads begin with what was set last
        yield executor
