"""``train`` hands its flags to the library, and shows configs without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sam_diffsr.training as training
from sam_diffsr.cli import main
from sam_diffsr.training import config_to_yaml, load_config, read_log


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def train(stage: str, config: Any, out: str, **options: Any) -> training.TrainResult:
        seen.append({"stage": stage, "config": config, "out": out, **options})
        return training.TrainResult(step=3, finished=True, checkpoint=Path("step-3"))

    monkeypatch.setattr(training, "train", train)
    return seen


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["train", "--list-presets"])
    assert leaving.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "paper/diffusion" in [line.split()[0] for line in lines]
    assert all(len(line.split()) > 4 for line in lines)


def test_config_is_printed_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    arguments = ["train", "diffusion", "paper/diffusion", "--set", "run.steps=9", "--print-config"]
    assert main(arguments) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(printed) == load_config("paper/diffusion", overrides=["run.steps=9"])
    assert calls == []


def test_folder_is_required_to_train(capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "rrdb", "tiny/rrdb"])
    assert "the following arguments are required: --out" in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], False),
        (["--resume"], "latest"),
        (["--resume", "latest"], "latest"),
        (["--resume", "a/b.safetensors"], "a/b.safetensors"),
    ],
)
def test_resume(flags: list[str], expected: bool | str, calls: list[dict[str, Any]]) -> None:
    assert main(["train", "rrdb", "tiny/rrdb", "--out", "x", *flags, "--quiet"]) == 0
    (call,) = calls
    assert (call["resume"], call["stage"], call["out"]) == (expected, "encoder", "x")
    assert (call["validate"], call["progress"]) == (None, False)
    assert call["config"] == load_config("tiny/rrdb")


def test_the_given_config_is_not_replaced(
    tmp_path: Path, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("# mine\nbase: tiny/rrdb\n")
    command = ["train", "rrdb", str(tmp_path / "config.yaml"), "--out", str(tmp_path)]
    for resume in [], ["--resume"], ["--resume", "another/run"]:
        assert main([*command, *resume]) == 2
        assert "keep your config under another name" in capsys.readouterr().err
    assert calls == []
    written = config_to_yaml(load_config("tiny/rrdb"))  # as a run that was killed early leaves it
    (tmp_path / "config.yaml").write_text(written)
    assert main([*command, "--resume", "--quiet"]) == 0


def test_a_table_that_is_null_takes_one_value() -> None:
    config = load_config("small/rrdb", overrides=["data.synthetic=null", "data.synthetic.size=256"])
    assert config.data.synthetic is not None
    assert config.data.synthetic.size == 256


def test_misspelt_preset_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "rrdb", "papr/rrdb", "--out", "x"]) == 1
    assert "did you mean 'paper/rrdb'?" in capsys.readouterr().err
    assert main(["train", "rrdb", "tiny/rrdb", "--out", "x", "--set", "run.stpes=3"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "tiny/rrdb.run has unknown keys ['stpes'] (did you mean 'steps' instead of 'stpes'?)" in line


def test_validation_on_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((60, 52), Image.Resampling.BICUBIC).save(tmp_path / "photos" / "a.png")
    common = [
        "--quiet",
        *("--set", "run.steps=1", "--set", f"validation.hr={tmp_path / 'photos'}"),
        *("--set", "data.batch=1", "--set", "data.synthetic={size: 64, pool: 1}", "--set", "run.device=cpu"),
        *("--set", "validation.crop=48", "--set", "validation.sampling={sampler: ddim, steps: 1, start: 5}"),
    ]
    assert main(["train", "rrdb", "tiny/rrdb", "--out", str(tmp_path / "one"), *common]) == 0
    encoder = ["--set", f"diffusion.encoder={tmp_path / 'one'}"]
    assert (
        main(["train", "diffusion", "tiny/diffusion", "--out", str(tmp_path / "two"), *common, *encoder]) == 0
    )
    first, second = (read_log(tmp_path / name)[-1]["validation"] for name in ("one", "two"))
    assert first.keys() == {"psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y"}
    assert first["bicubic_psnr_y"] == second["bicubic_psnr_y"] > 20
    assert first["psnr_y"] != second["psnr_y"]
    picture = Image.open(tmp_path / "two" / "samples" / "step-00000001.png")
    assert picture.size == (4 * 48 + 3 * 4, 48)
