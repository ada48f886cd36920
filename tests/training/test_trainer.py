"""The trainer: what a checkpoint restores, and seeds of single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.training import TrainConfig, read_checkpoint
from sam_diffsr.training.state import Checkpoint, latest_checkpoint, write_checkpoint
from sam_diffsr.training.trainer import Trainer

MakeConfig = Callable[..., TrainConfig]


def make_trainer(config: TrainConfig, checkpoint: Checkpoint | None = None) -> Trainer:
    return Trainer("encoder", config, accelerator=Accelerator(cpu=True), checkpoint=checkpoint)


def test_restore_and_save_change_nothing(make_config: MakeConfig, encoder_run: Path, tmp_path: Path) -> None:
    before = read_checkpoint(encoder_run)
    config = make_config(run={"steps": 2, "channels_last": True})
    make_trainer(config, before).save(tmp_path)
    after = read_checkpoint(tmp_path)
    assert (after.step, after.stage, after.scaler) == (before.step, before.stage, before.scaler)
    for group in ("network", "ema", "frozen", "moments"):
        mine, other = getattr(before, group), getattr(after, group)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), group


def test_moments_have_the_memory_format_of_their_weights(make_config: MakeConfig, encoder_run: Path) -> None:
    config = make_config(run={"steps": 2, "channels_last": True})
    trainer = make_trainer(config, read_checkpoint(encoder_run))
    for parameter, state in trainer._optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()


@pytest.mark.parametrize("group", ["network", "ema"])
def test_weights_of_another_network(group: str, make_config: MakeConfig, encoder_run: Path) -> None:
    checkpoint = read_checkpoint(encoder_run)
    weights = dict(getattr(checkpoint, group))
    weights["conv_first.bias"] = torch.zeros(7)
    weights["other"] = weights.pop("conv_last.bias")
    damaged = replace(checkpoint, **{group: weights})
    with pytest.raises(
        CheckpointMismatchError, match=rf"{checkpoint.path.name}.*conv_last\.bias.*other.*\(7,\)"
    ):
        make_trainer(make_config(run={"steps": 2}), damaged)


def test_moments_of_an_unknown_weight(make_config: MakeConfig, encoder_run: Path) -> None:
    checkpoint = read_checkpoint(encoder_run)
    checkpoint.moments["other.weight/exp_avg"] = torch.zeros(1)
    with pytest.raises(CheckpointMismatchError, match=r"Adam moments of an unknown weight 'other\.weight'"):
        make_trainer(make_config(run={"steps": 2}), checkpoint)


def test_loss_scaling_is_restored(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    scaler.scale(torch.ones(()))  # creates its state
    write_checkpoint(
        replace(
            read_checkpoint(encoder_run),
            path=tmp_path / "checkpoints" / "step-00000002.safetensors",
            scaler=scaler.state_dict(),
        ),
        keep=1,
    )
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(accelerator, "scaler", other)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    Trainer(
        "encoder",
        make_config(run={"steps": 2}),
        accelerator=accelerator,
        checkpoint=read_checkpoint(newest),
    )
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 512.0
