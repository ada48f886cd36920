"""Which part of a list of files a process does, when several work on one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sam_diffsr.errors import ArgumentError

__all__ = ["Shard", "launched_device"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (0-based) of ``count``; the parts of a list are disjoint and together all of it.

    Raises:
        ArgumentError: no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ArgumentError(
                f"there is no part {self.index + 1} of {self.count}; parts are 1..{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"i/n"``, where i is 1..n.

        Raises:
            ArgumentError: another form, or no such part.
        """
        part, slash, count = text.partition("/")
        if not (slash and part.isdecimal() and count.isdecimal()):
            raise ArgumentError(f"a shard is written i/n, 1/4 for the first of four; got {text!r}")
        return cls(int(part) - 1, int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """Take RANK and WORLD_SIZE, which torchrun and accelerate set; without both, the whole list.

        Raises:
            ArgumentError: they are no numbers, or there is no such part.
        """
        rank, world = environment.get("RANK"), environment.get("WORLD_SIZE")
        if rank is None or world is None:
            return cls()
        if not (rank.isdecimal() and world.isdecimal()):
            raise ArgumentError(f"RANK and WORLD_SIZE must be whole numbers, got {rank!r} and {world!r}")
        return cls(int(rank), int(world))

    def select(self, items: Sequence[T]) -> list[T]:
        """Give every ``count``-th item; the list must be the same, in the same order, for all parts."""
        return list(items[self.index :: self.count])


def launched_device(environment: Mapping[str, str]) -> str:
    """The GPU that belongs to a process of torchrun or accelerate; ``"auto"`` for any other process."""
    import torch

    rank = environment.get("LOCAL_RANK", "")
    if not rank.isdecimal() or "WORLD_SIZE" not in environment or not torch.cuda.is_available():
        return "auto"
    return f"cuda:{int(rank) % torch.cuda.device_count()}"
