"""``sam-diffsr bench``: the chosen measurements run; bad input is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sam_diffsr.bench as bench
import sam_diffsr.bench.upscaling as upscaling
from sam_diffsr.bench import BenchResult
from sam_diffsr.cli import main

FUNCTIONS = {
    "step": "measure_step",
    "image": "measure_image",
    "memory": "measure_memory",
    "folder": "measure_folder",
    "train": "measure_training",
    "masks": "measure_masks",
}


@pytest.fixture
def model_dir(resolver, tmp_path: Path) -> str:
    resolver.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Replace every measurement; returns the options that each was called with."""
    calls: dict[str, dict[str, Any]] = {}
    for name, function in FUNCTIONS.items():

        def fake(*inputs: Any, name: str = name, **options: Any) -> BenchResult:
            calls[name] = {"inputs": inputs, **options}
            return BenchResult(name=name, figures={"step_ratio": 0.5}, settings={})

        monkeypatch.setattr(bench, function, fake)
    return calls


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], ["step", "image"]), (["masks", "folder"], ["folder", "masks"]), (["all"], list(FUNCTIONS))],
)
def test_chosen_measurements_run_in_order(asked, model_dir, words, expected) -> None:
    assert main(["bench", *words, "-m", model_dir]) == 0
    assert list(asked) == expected


def test_only_given_options_are_passed(asked, model_dir) -> None:
    assert main(["bench", "all", "-m", model_dir]) == 0
    options = {name: {key for key in asked[name] if key != "inputs"} for name in FUNCTIONS}
    assert options["train"] == {"own_data"}
    assert not any(options[name] for name in ("step", "image", "memory", "folder", "masks"))
    more = ["--size", "32", "--repeats", "3", "--sizes", "8,16", "-t", "0", "--max-memory", "7"]
    assert main(["bench", "all", "-m", model_dir, *more, "--stage", "rrdb", "--set", "data.batch=3"]) == 0
    assert (asked["step"]["size"], asked["step"]["repeats"]) == (32, 3)
    memory = {key: asked["memory"][key] for key in ("sizes", "tile", "max_memory")}
    assert memory == {"sizes": [8, 16], "tile": 0, "max_memory": 7 * 2**20}
    stage, config = asked["train"]["inputs"]
    assert (stage, config.data.batch, asked["train"]["repeats"]) == ("encoder", 3, 3)


def test_quick_is_overruled_by_what_is_given(asked, model_dir) -> None:
    assert main(["bench", "step", "masks", "-m", model_dir, "--quick", "--size", "16"]) == 0
    assert (asked["step"]["size"], asked["step"]["repeats"]) == (16, 2)
    assert asked["masks"]["size"] == (340, 510)


@pytest.mark.usefixtures("small_reference")
def test_step_and_image_for_real(model_dir, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(upscaling, "run_probe", lambda resolver, *, size: {"peak_mb": 100.0})
    target = tmp_path / "bench.json"
    threads = str(torch.get_num_threads())
    options = ["--size", "8", "--repeats", "1", "--threads", threads, "--json", str(target)]
    assert main(["bench", "-m", model_dir, *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Denoising step, time relative to the reference (released architecture): ")
    assert captured.err.startswith("measuring: step, 8x8")
    result = json.loads(target.read_text())
    assert {"step_ratio", "image_speedup", "image_speedup_bundled", "gemm_fraction"} <= result.keys()
    assert {"peak_memory_mb", "machine", "versions", "settings", "seconds"} <= result.keys()
    assert main(["bench", "step", "-m", model_dir, "--size", "8", "--repeats", "1", "-q"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "-m", "nowhere/model"], "nowhere"),
        (["memory", "--repeats", "3"], "--repeats belongs to bench"),
        (["step", "--sizes", "8"], "--sizes belongs to bench memory, not to bench step"),
        (["masks", "--size", "8"], "--size belongs to bench step, image, folder, not to bench masks"),
        (["step", "--set", "data.batch=3"], "--set belongs to bench train, not to bench step"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["masks", "-m", "x"],
            "model belongs to bench step, image, memory, folder, not to bench masks",
        ),
        (
            ["train", "--device", "cpu"],
            "device belongs to bench step, image, memory, folder, not to",
        ),
        (["masks", "--json", "."], "there is a folder of this name"),
    ],
)
def test_bad_input_is_refused_before_the_work(
    asked, arguments, message, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == (2 if "belongs" in message else 1)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("error:") == 1
    assert asked == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiles"], "'tiles' is not one of step, image, memory, folder, train, masks and all"),
        (["memory", "--sizes", "8,x"], "expected whole numbers like '1,2,4', got '8,x'"),
        (["train", "--stage", "unet"], "invalid choice: 'unet'"),
    ],
)
def test_wrong_usage(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
