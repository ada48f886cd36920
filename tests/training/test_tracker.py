"""What a run tells while it goes on: numbers, pictures, and which tracker gets them."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, MissingDependencyError, OutputError
from sam_diffsr.models import DiffSR
from sam_diffsr.training import TrainConfig, read_log, train
from sam_diffsr.training.tracker import tracker_names

MakeConfig = Callable[..., TrainConfig]
PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


@dataclass
class Seen:
    scores: dict[str, float] = field(default_factory=lambda: {"psnr_y": 30.0})
    picture: np.ndarray | None = field(default_factory=lambda: PICTURE)


def validate(model: DiffSR) -> Seen:
    return Seen()


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


def test_names_of_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker_names("jsonl") == tracker_names("none") == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert tracker_names("auto") == tracker_names("tensorboard") == ["tensorboard"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tracker_names("auto") == []
    with pytest.raises(MissingDependencyError, match=r"needs TensorBoard: .*sam-diffsr\[train\]"):
        tracker_names("tensorboard")


def test_pictures_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("")
    with pytest.raises(OutputError, match=r"cannot create .*samples"):
        train("encoder", make_config(), tmp_path, validate=validate)


def test_tracker_that_cannot_write(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(OutputError, match="cannot write the tracker's files"):
        train("encoder", make_config(run={"tracker": "tensorboard"}), tmp_path)


def test_folder_to_validate_on_and_nobody_who_does(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"config\.validation\.hr names a folder, but nothing validates"):
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
