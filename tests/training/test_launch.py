"""Devices, precisions and batches that several processes can share, before anything is computed."""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sam_diffsr.errors import ConfigError, MissingDependencyError
from sam_diffsr.training import TrainConfig, read_checkpoint, read_log, train
from sam_diffsr.training.launch import launched, leave_processes, worker_count
from sam_diffsr.training.stages import StageName

MakeConfig = Callable[..., TrainConfig]


def test_device_names(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, message in (
        ("gpu0", r"run\.device 'gpu0' cannot be used: device must be 'auto', 'cpu'"),
        ("cuda:1", r"run\.device 'cuda:1' cannot be used: .* sees 0 CUDA devices"),
    ):
        with pytest.raises(ConfigError, match=message):
            train("encoder", make_config(run={"device": name}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_of_gpus_on_a_cpu(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"run\.precision fp16 needs a CUDA device, not cpu; use bf16 or fp32"
    ):
        train("encoder", make_config(run={"precision": "fp16"}), tmp_path)


def test_batch_that_cannot_be_shared(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate

    def three(**options: Any) -> SimpleNamespace:
        return SimpleNamespace(num_processes=3, process_index=0)

    monkeypatch.setattr(accelerate, "Accelerator", three)
    with pytest.raises(
        ConfigError, match=r"must be a multiple of 3 processes times run\.accumulate 1, got 2"
    ):
        train("encoder", make_config(), tmp_path)


def test_one_device_for_several_processes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate

    def two(**options: Any) -> SimpleNamespace:
        return SimpleNamespace(num_processes=2, process_index=0)

    monkeypatch.setattr(accelerate, "Accelerator", two)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    with (
        pytest.raises(ConfigError, match=r"run\.device 'cuda:0' names one device, but there are 2 processes"),
        launched(make_config(run={"device": "cuda:0"}), folder=tmp_path),
    ):
        pass


def test_without_accelerate(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "accelerate":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"training needs accelerate: .*sam-diffsr\[train\]"):
        train("encoder", make_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_parts_of_a_batch_give_what_the_batch_gives(
    stage: StageName, make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"data": {"batch": 4}, "diffusion": {"encoder": str(encoder_run)}}
    train(stage, make_config(**sections, run={"log_every": 1}), tmp_path / "whole")
    train(stage, make_config(**sections, run={"log_every": 1, "accumulate": 4}), tmp_path / "parts")
    whole, parts = (read_log(tmp_path / name) for name in ("whole", "parts"))
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in parts] == pytest.approx([r[key] for r in whole], rel=1e-4), key


def test_environment_does_not_divide_the_loss(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("encoder", make_config(run={"steps": 2}), tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train("encoder", make_config(run={"steps": 2}), tmp_path / "launched")
    plain, other = (read_log(tmp_path / name)[-1] for name in ("plain", "launched"))
    assert plain["grad_norm"] == other["grad_norm"]


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_bf16_trains_nearly_as_fp32_and_keeps_weights_whole(
    stage: StageName, make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    losses: dict[str, float] = {}
    for precision in ("fp32", "bf16", "fp32"):  # one after another: no run changes what the next one does
        run = {"precision": precision, "log_every": 1}
        config = make_config(diffusion={"encoder": str(encoder_run)}, run=run)
        folder = tmp_path / f"{precision}-{len(losses)}"
        train(stage, config, folder)
        losses[f"{precision}-{len(losses)}"] = read_log(folder)[-1]["loss"]
        checkpoint = read_checkpoint(folder)
        assert {value.dtype for value in checkpoint.network.values()} == {torch.float32}
    first, half, again = losses.values()
    assert first == again
    assert half != first
    assert half == pytest.approx(first, rel=0.1)


def test_leaving_a_group_that_one_is_not_in() -> None:
    assert leave_processes()


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "processes", "count"),
    [
        (None, "cpu", 16, None, 0),
        (None, "cuda", 16, None, 15),
        (None, "cuda", 64, None, 16),
        (None, "cuda", 64, "8", 7),
        (None, "cuda", 4, "8", 1),
        (3, "cpu", 16, None, 3),
        (None, "mps", 16, None, 0),
        (0, "cuda", 16, None, 0),
    ],
)
def test_processes_that_make_batches(
    wanted: int | None, device: str, cores: int, processes: str | None, count: int, monkeypatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert worker_count(wanted, torch.device(device)) == count
