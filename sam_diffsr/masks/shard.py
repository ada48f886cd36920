"""Shares of a list of files, for several processes that work on one folder (``--shard i/n``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from sam_diffsr.errors import ArgumentError

T = TypeVar("T")

_LAUNCHERS = {
    "WORLD_SIZE": ("RANK", "LOCAL_RANK"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_LOCALID"),
}
"""Number of processes, to a process's number among all and on its machine: torchrun and accelerate, then
``srun``. A batch script of SLURM outside ``srun`` has no ``SLURM_STEP_NUM_TASKS``."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (0-based) of ``count``. The parts are disjoint and together make up the list.

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
        """Read ``"i/n"`` with i in 1..n; raises ``ArgumentError``."""
        part, slash, count = text.partition("/")
        if not (slash and part.isdecimal() and count.isdecimal()):
            raise ArgumentError(f"a shard is written i/n, 1/4 for the first of four; got {text!r}")
        return cls(int(part) - 1, int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """Take the part from the variables of torchrun, accelerate or ``srun``; without them the whole list.

        Raises ``ArgumentError`` if they are no whole numbers, or there is no such part.
        """
        for count, (number, _) in _LAUNCHERS.items():
            if number in environment and count in environment:
                rank, world = environment[number], environment[count]
                if rank.isdecimal() and world.isdecimal():
                    return cls(int(rank), int(world))
                raise ArgumentError(f"{number} and {count} must be whole numbers, got {rank!r} and {world!r}")
        return cls()

    def select(self, items: Sequence[T]) -> list[T]:
        """Give every ``count``-th item. All parts must pass the same list in the same order."""
        return list(items[self.index :: self.count])


def launched_device(environment: Mapping[str, str]) -> str:
    """The GPU of a process of torchrun, accelerate or ``srun``; ``"auto"`` for any other process."""
    ranks = [environment.get(local, "") for count, (_, local) in _LAUNCHERS.items() if count in environment]
    if not ranks or not ranks[0].isdecimal() or not torch.cuda.is_available():
        return "auto"
    return f"cuda:{int(ranks[0]) % torch.cuda.device_count()}"
