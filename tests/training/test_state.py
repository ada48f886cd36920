"""Checkpoint files: whole or not at all, limited in number, strict when read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam_diffsr.errors import ModelLoadError, OutputError
from sam_diffsr.training import state
from sam_diffsr.training.state import (
    Checkpoint,
    checkpoint_path,
    is_checkpoint,
    list_checkpoints,
    read_checkpoint,
    remove_leftovers,
    write_checkpoint,
)


def save(folder: Path, step: int, *, keep: int = 9) -> Path:
    weights = {
        "a.weight": torch.rand(2, 3, 3, 3).to(memory_format=torch.channels_last),
        "a.bias": torch.rand(2),
    }
    checkpoint = Checkpoint(
        path=checkpoint_path(folder, step),
        step=step,
        stage="encoder",
        config={"a": {"b": 1}},
        network=weights,
        ema={key: value + 1 for key, value in weights.items()},
        frozen={"c": torch.rand(3)},
        moments={"a.bias/step": torch.tensor(3.0)},
        scaler={"scale": 2.0},
    )
    write_checkpoint(checkpoint, keep=keep)
    return checkpoint.path


def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    path = save(tmp_path, 1)
    torch.manual_seed(0)
    expected = torch.rand(2, 3, 3, 3)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.path == path
    assert (checkpoint.step, checkpoint.stage, checkpoint.config) == (1, "encoder", {"a": {"b": 1}})
    assert (checkpoint.scaler, checkpoint.moments["a.bias/step"].item()) == ({"scale": 2.0}, 3.0)
    assert torch.equal(checkpoint.network["a.weight"], expected)
    assert torch.equal(checkpoint.ema["a.weight"], expected + 1)
    assert list(checkpoint.frozen) == ["c"]
    monkeypatch.chdir(path.parent)
    assert read_checkpoint(path.name).run == tmp_path


def test_oldest_are_deleted(tmp_path: Path) -> None:
    for step in (5, 10, 200, 100000000):
        save(tmp_path, step, keep=2)
    assert [read_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [200, 100000000]


def test_failed_save_keeps_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device; earlier checkpoints are kept"):
        save(tmp_path, 2, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.safetensors"]


def test_unfinished_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path.parent / ".step-00000002.safetensors.7.tmp").write_bytes(b"half")
    assert read_checkpoint(tmp_path).step == 1


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="has no finished checkpoint"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot read checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="cannot read checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"step": "soon"}, "'soon'"),
        ({"config": '{"a": '}, "Expecting value"),
        ({"config": "[1]"}, r"expected a JSON object, got '\[1\]'"),
        ({"scaler": "7"}, "expected a JSON object, got '7'"),
    ],
)
def test_damaged_header(damage: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    good = {"format_version": "1", "step": "1", "stage": "encoder", "config": "{}"}
    save_file({"network:a": torch.zeros(1)}, path, metadata=good)
    assert read_checkpoint(path).step == 1
    save_file({"network:a": torch.zeros(1)}, path, metadata={**good, **damage})
    with pytest.raises(ModelLoadError, match=f"the header of checkpoint .* is damaged: .*{message}"):
        read_checkpoint(path)


def test_other_safetensors_file(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelLoadError, match="is not a training checkpoint of format 1"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_what_a_checkpoint_is(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert is_checkpoint(path)
    for other in (tmp_path / "x.safetensors", tmp_path, tmp_path / "gone"):
        assert not is_checkpoint(other)


def test_leftovers_are_removed_and_checkpoints_kept(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path.parent / ".0123.part.safetensors").write_bytes(b"half")
    (path.parent / ".gitignore").write_text("*")
    (path.parent / ".cache").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(found.name for found in path.parent.iterdir()) == [".cache", ".gitignore", path.name]
    remove_leftovers(tmp_path / "none")
