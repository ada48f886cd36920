"""Reports of a run: means of steps, numbers, pictures, and the tracker that gets them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, tracking
from PIL import Image

from sam_diffsr.errors import ArgumentError, ConfigError, MissingDependencyError, OutputError
from sam_diffsr.models import DiffSR
from sam_diffsr.training import TrainConfig, read_log, train
from sam_diffsr.training import log as module
from sam_diffsr.training.launch import tracker_names
from sam_diffsr.training.log import Meter

MakeConfig = Callable[..., TrainConfig]
PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def validate(model: DiffSR) -> tuple[dict[str, float], np.ndarray]:
    return {"psnr_y": 30.0}, PICTURE


def test_numbers_and_pictures_reach_tensorboard(make_config: MakeConfig, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = {"tracker": "tensorboard", "log_every": 2, "validate_every": 3}
    train("encoder", make_config(run={**run, "steps": 4}), tmp_path, validate=validate)
    train("encoder", make_config(run={**run, "steps": 6}), tmp_path, validate=validate, resume=True)
    seen = events.EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [event.step for event in seen.Scalars("train/loss")] == [2, 4, 6]
    assert [event.value for event in seen.Scalars("validation/psnr_y")] == [30.0] * 3
    assert [event.step for event in seen.Images("samples")] == [3, 4, 6]
    logged = {record["step"]: record["loss"] for record in read_log(tmp_path) if "loss" in record}
    assert {e.step: e.value for e in seen.Scalars("train/loss")} == pytest.approx(logged)


@pytest.mark.parametrize("tracker", ["jsonl", "none"])
def test_without_a_tracker(tracker: str, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(run={"tracker": tracker, "validate_every": 3})
    train("encoder", config, tmp_path, validate=validate)
    assert [record["step"] for record in read_log(tmp_path) if "validation" in record] == [3, 6]
    assert not (tmp_path / "tensorboard").exists()
    pictures = sorted(path.name for path in tmp_path.glob("samples/*"))
    assert pictures == (["step-00000003.png", "step-00000006.png"] if tracker == "jsonl" else [])
    for name in pictures:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "samples" / name)), PICTURE)


class FakeTracker(tracking.GeneralTracker):
    """Stands in for wandb: remembers its calls, and fails from ``fails_at`` on."""

    name = "wandb"
    requires_logging_directory = False
    fails_at = 10**9

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any, int | None]] = [("project", (run_name, options), None)]
        made.append(self)

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("config", values, None))

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        if step is not None and step >= self.fails_at:
            raise ConnectionError("the server is gone")
        self.calls.append(("numbers", {**values, **options}, step))

    def log_images(self, values: dict[str, Any], step: int | None = None) -> None:
        self.calls.append(("images", values, step))

    def finish(self) -> None:
        self.calls.append(("finish", None, None))


made: list[FakeTracker] = []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    """Installs the fake in place of accelerate's wandb."""
    made.clear()
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", FakeTracker)
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.WANDB])
    return FakeTracker


def test_any_tracker_of_accelerate(fake: type[FakeTracker], make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(run={"tracker": "wandb", "log_every": 2, "validate_every": 3, "steps": 4})
    train("encoder", config, tmp_path / "mine", validate=validate)
    (tracker,) = made
    kinds = [kind for kind, _, _ in tracker.calls]
    assert kinds[:2] == ["project", "config"]
    assert kinds[-1] == "finish"
    project, options = tracker.calls[0][1]
    assert (project, options["name"], options["dir"]) == ("sam_diffsr", "mine", str(tmp_path / "mine"))
    settings = tracker.calls[1][1]
    assert (settings["run.steps"], settings["model.denoiser.multipliers"]) == (4, "[1, 2]")
    numbers = [(step, sorted(values)[0]) for kind, values, step in tracker.calls if kind == "numbers"]
    train_key, validation_key = "train/data_wait", "validation/psnr_y"
    assert numbers == [(2, train_key), (3, validation_key), (4, train_key), (4, validation_key)]
    images = [(step, values["samples"]) for kind, values, step in tracker.calls if kind == "images"]
    assert [step for step, _ in images] == [3, 4]
    np.testing.assert_array_equal(images[0][1], PICTURE[None])
    assert (tmp_path / "mine" / "samples" / "step-00000004.png").exists()


def test_tracker_that_fails_is_dropped_and_the_run_goes_on(
    fake: type[FakeTracker],
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fake, "fails_at", 4)
    config = make_config(run={"tracker": "wandb", "log_every": 2})
    assert train("encoder", config, tmp_path).finished
    assert caplog.text.count("the tracker wandb failed and is not used from now on") == 1
    assert "the server is gone" in caplog.text
    assert [record["step"] for record in read_log(tmp_path)] == [2, 4, 6]


def test_tracker_that_does_not_start(
    fake: type[FakeTracker], make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeTracker) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(fake, "start", refuse)
    with pytest.raises(OutputError, match=r"cannot start the tracker wandb: no API key; .* set run\.tracker"):
        train("encoder", make_config(run={"tracker": "wandb"}), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_unknown_and_missing_trackers_are_errors_before_the_work(
    fake: type[FakeTracker], make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"must be auto, jsonl, none or a tracker .*mlflow, .*tensorboard, .*wandb\), got 'wanb'",
    ):
        train("encoder", make_config(run={"tracker": "wanb"}), tmp_path / "run")
    with pytest.raises(
        MissingDependencyError,
        match=r"comet_ml needs its package: pip install comet-ml, or choose one of wandb, jsonl, none",
    ):
        train("encoder", make_config(run={"tracker": "comet_ml"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert tracker_names("auto") == tracker_names("jsonl") == tracker_names("none") == []
    assert tracker_names("wandb") == ["wandb"]


def test_auto_is_tensorboard_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.TENSORBOARD])
    assert tracker_names("auto") == tracker_names("tensorboard") == ["tensorboard"]


def test_pictures_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*samples"):
        train("encoder", make_config(), tmp_path, validate=validate)


def test_tracker_that_cannot_write(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(OutputError, match="cannot start the tracker tensorboard: "):
        train("encoder", make_config(run={"tracker": "tensorboard"}), tmp_path)


def test_folder_to_validate_on_and_nobody_who_does(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"config\.validation\.hr names a folder, but validate is None"):
        train("encoder", make_config(validation={"hr": "photos"}), tmp_path)


def test_bar_and_messages(
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="sam_diffsr")
    train("encoder", make_config(run={"log_every": 3}), tmp_path / "a", progress=True)
    shown = capsys.readouterr().err
    assert "encoder: 100%" in shown
    assert "6/6" in shown
    assert "loss=" in shown
    train("encoder", make_config(run={"log_every": 3}), tmp_path / "b", progress=False)
    assert "encoder:" not in capsys.readouterr().err
    assert "step 3: loss" in caplog.text


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    return clock


def test_pauses_are_no_training_and_waits_are_counted(clock: Clock) -> None:
    meter = Meter(Accelerator(cpu=True))
    with meter.timed("waiting"):
        clock.now += 1
    clock.now += 3
    meter.add(torch.tensor(2.0), torch.tensor(4.0), images=8)
    with meter.timed("paused"):
        clock.now += 1000
    meter.add(torch.tensor(4.0), torch.tensor(8.0), images=8)
    expected = {"loss": 3.0, "grad_norm": 6.0, "images_per_second": 4.0, "data_wait": 0.25}
    assert meter.summary() == expected
    assert meter.summary() == {}


def test_other_processes_take_part_in_means(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    added = torch.tensor([1.0, 2.0])
    monkeypatch.setattr(accelerator, "reduce", lambda means, reduction: means + added)
    meter = Meter(accelerator)
    meter.add(torch.tensor(2.0), torch.tensor(4.0), images=1)
    summary = meter.summary()
    assert (summary["loss"], summary["grad_norm"]) == (3.0, 6.0)


@pytest.mark.parametrize("skips", [False, True])
def test_skipped_steps(skips: bool) -> None:
    meter = Meter(Accelerator(cpu=True), skips=skips)
    for norm in (float("inf"), float("nan"), 6.0):
        meter.add(torch.tensor(1.0), torch.tensor(norm), images=1)
    norm = meter.summary()["grad_norm"]
    assert norm == 2.0 if skips else math.isnan(norm)
