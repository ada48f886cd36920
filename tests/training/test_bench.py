"""The benchmark trains on what it says, measures in turns, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam_diffsr.cli.app import main
from sam_diffsr.errors import ArgumentError
from sam_diffsr.training import TrainConfig
from sam_diffsr.training.bench import run_train_bench


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_crops_and_synthetic_images_by_default(
    make_config: Callable[..., TrainConfig], stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said: list[str] = []
    result = run_train_bench(stage, make_config(), rounds=1, steps=2, say=said.append)
    assert list(result.sources) == ["crops", "synthetic"]
    assert (result.stage, result.steps, result.batch, result.patch) == (stage, 2, 2, 16)
    for cost in result.sources.values():
        assert cost.images_per_second == pytest.approx(2 * 1000 / cost.step_ms)
        assert cost.ratio == pytest.approx(cost.step_ms / result.random_ms)
        assert 0 < cost.data_wait < 1
        assert cost.cpu_ratio > 0
        assert cost.making_share > 0
    assert said[-1] == "round 1 of 1"
    assert not list(tmp_path.glob("tmp*"))  # torch has a cache of its own there


def test_own_data_from_the_command_line(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, target = tmp_path / "run.yaml", tmp_path / "bench.json"
    config.write_text(
        f"data: {{crops: '{crops}', patch: 16, batch: 2}}\n"
        "model:\n  scale: 2\n  encoder: {blocks: 2, channels: 6, growth: 4}\n"
        "  denoiser: {dim: 4, multipliers: [1, 2]}\n"
    )
    options = ["--config", str(config), "--set", "run.device=cpu", "--rounds", "1", "--steps", "1"]
    assert main(["bench", "train", "rrdb", *options, "--json", str(target)]) == 0
    captured = capsys.readouterr()
    assert "measuring: opening data" in captured.err
    assert "random ms: " in captured.out
    result = json.loads(target.read_text())
    assert list(result["sources"]) == ["data"]
    assert {"machine", "versions", "stage"} <= result.keys()


def test_no_steps(make_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ArgumentError, match="rounds and steps must be >= 1, got 1 and 0"):
        run_train_bench("encoder", make_config(), rounds=1, steps=0)
