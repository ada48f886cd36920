"""Checkpoints: whole or not at all, limited in number, strict when read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError, OutputError
from sam_diffsr.training import state
from sam_diffsr.training.state import (
    is_checkpoint,
    list_checkpoints,
    read_checkpoint,
    remove_leftovers,
    restore,
    save_checkpoint,
)


class Run:
    """A network with everything that belongs to it, after one step."""

    def __init__(self, channels: int = 3, *, steps: int = 1) -> None:
        self.network = nn.Conv2d(3, channels, 3).to(memory_format=torch.channels_last)
        self.frozen = nn.Linear(2, 2)
        self.ema = AveragedModel(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        for _ in range(steps):
            self.network(torch.rand(1, 3, 5, 5)).sum().backward()
            self.optimizer.step()
            self.ema.update_parameters(self.network)

    def save(self, folder: Path, step: int, *, keep: int = 9) -> Path:
        return save_checkpoint(
            folder,
            step=step,
            stage="encoder",
            config={"a": {"b": 1}},
            network=self.network,
            ema=self.ema,
            frozen=self.frozen,
            optimizer=self.optimizer,
            keep=keep,
        )

    def restore(self, path: Path) -> None:
        restore(
            read_checkpoint(path),
            network=self.network,
            ema=self.ema,
            frozen=self.frozen,
            optimizer=self.optimizer,
        )


def test_round_trip(tmp_path: Path) -> None:
    first, second = Run(), Run(steps=0)
    path = first.save(tmp_path, 1)
    second.restore(path)
    for module, other in (
        (first.network, second.network),
        (first.frozen, second.frozen),
        (first.ema, second.ema),
    ):
        for key, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    for mine, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        for entry, value in first.optimizer.state[mine].items():
            assert torch.equal(value, second.optimizer.state[other][entry])
            assert value.stride() == second.optimizer.state[other][entry].stride()
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.stage, checkpoint.config) == (1, "encoder", {"a": {"b": 1}})


def test_oldest_are_deleted(tmp_path: Path) -> None:
    run = Run()
    for step in (5, 10, 200, 100000000):
        run.save(tmp_path, step, keep=2)
    assert [read_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [200, 100000000]


def test_failed_save_keeps_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    run.save(tmp_path, 1)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device; earlier checkpoints are kept"):
        run.save(tmp_path, 2, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.safetensors"]


def test_unfinished_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    run = Run()
    path = run.save(tmp_path, 1)
    (path.parent / ".step-00000002.safetensors.7.tmp").write_bytes(b"half")
    assert read_checkpoint(tmp_path).step == 1


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="has no finished checkpoint"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot read checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = Run().save(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="cannot read checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"step": "soon"}, "'soon'"),
        ({"config": '{"a": '}, "Expecting value"),
        ({"config": "[1]"}, r"expected a JSON object, got '\[1\]'"),
        ({"scaler": "7"}, "expected a JSON object, got '7'"),
    ],
)
def test_damaged_header(damage: dict[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    good = {"format_version": "1", "step": "1", "stage": "encoder", "config": "{}"}
    save_file({"network:a": torch.zeros(1)}, path, metadata=good)
    assert read_checkpoint(path).step == 1
    save_file({"network:a": torch.zeros(1)}, path, metadata={**good, **damage})
    with pytest.raises(ModelLoadError, match=f"the header of checkpoint .* is damaged: .*{said}"):
        read_checkpoint(path)


def test_other_safetensors_file(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelLoadError, match="is not a training checkpoint of format 1"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_other_network(tmp_path: Path) -> None:
    path = Run().save(tmp_path, 1)
    other = Run(channels=4)
    with pytest.raises(CheckpointMismatchError, match=r"bias \(3,\) instead of \(4,\)"):
        other.restore(path)
    other = Run()
    other.network = nn.Conv2d(3, 3, 3, bias=False)
    with pytest.raises(CheckpointMismatchError, match="1 unexpected: bias;"):
        other.restore(path)
    other.network = nn.Sequential(nn.Conv2d(3, 3, 3))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(CheckpointMismatchError, match=r"2 missing: 0\.bias, 0\.weight; 2 unexpected: bias, "):
        other.restore(path)


def test_moments_of_an_unknown_weight(tmp_path: Path) -> None:
    run = Run()
    checkpoint = read_checkpoint(run.save(tmp_path, 1))
    checkpoint.moments["other.weight/exp_avg"] = torch.zeros(1)
    with pytest.raises(CheckpointMismatchError, match=r"Adam moments of an unknown weight 'other\.weight'"):
        restore(checkpoint, network=run.network, ema=run.ema, frozen=None, optimizer=run.optimizer)


def test_loss_scaling_is_restored(tmp_path: Path) -> None:
    run = Run()
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    scaler.scale(torch.ones(()))  # which makes its state
    options: dict[str, Any] = {
        "network": run.network,
        "ema": run.ema,
        "frozen": None,
        "optimizer": run.optimizer,
    }
    save_checkpoint(tmp_path, step=1, stage="encoder", config={}, keep=1, scaler=scaler, **options)
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    restore(read_checkpoint(tmp_path), scaler=other, **options)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 512.0


def test_what_a_checkpoint_is(tmp_path: Path) -> None:
    path = Run().save(tmp_path, 1)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert is_checkpoint(path)
    for other in (tmp_path / "x.safetensors", tmp_path, tmp_path / "gone"):
        assert not is_checkpoint(other)


def test_leftovers_are_removed_and_checkpoints_kept(tmp_path: Path) -> None:
    path = Run().save(tmp_path, 1)
    (path.parent / ".0123.part.safetensors").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert list(path.parent.iterdir()) == [path]
    remove_leftovers(tmp_path / "none")
