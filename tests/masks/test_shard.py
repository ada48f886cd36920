"""Parts of a list: disjoint, complete, and taken from what launchers set."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.shard import Shard, launched_device


def test_parts_are_disjoint_and_complete() -> None:
    items = list(range(7))
    for count in (1, 3, 9):
        parts = [Shard(index, count).select(items) for index in range(count)]
        assert sorted(item for part in parts for item in part) == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_written_form_counts_from_one() -> None:
    assert Shard.parse("1/4") == Shard(0, 4)
    assert Shard.parse("4/4") == Shard(3, 4)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0"])
def test_parts_that_do_not_exist(text: str) -> None:
    with pytest.raises(ArgumentError, match="there is no part"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["", "3", "a/b", "-1/2", "1/2/3"])
def test_other_forms(text: str) -> None:
    with pytest.raises(ArgumentError, match="a shard is written i/n"):
        Shard.parse(text)


def test_the_launcher_says_which_part() -> None:
    assert Shard.from_environment({"RANK": "2", "WORLD_SIZE": "8"}) == Shard(2, 8)
    assert Shard.from_environment({"RANK": "2"}) == Shard.from_environment({}) == Shard(0, 1)
    # A batch script of SLURM has a number and a count of tasks, but only srun starts one process for each.
    assert Shard.from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Shard(0, 1)
    assert Shard.from_environment({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}) == Shard(3, 4)
    with pytest.raises(ArgumentError, match="RANK and WORLD_SIZE must be whole numbers, got 'x' and '2'"):
        Shard.from_environment({"RANK": "x", "WORLD_SIZE": "2"})


def test_each_launched_process_has_its_own_gpu(monkeypatch) -> None:
    launched = {"LOCAL_RANK": "3", "WORLD_SIZE": "8"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launched_device(launched) == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launched_device(launched) == "cuda:1"
    assert launched_device({"SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}) == "cuda:1"
    assert launched_device({}) == launched_device({"SLURM_LOCALID": "0"}) == "auto"
