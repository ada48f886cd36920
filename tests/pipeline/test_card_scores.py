"""The file of an evaluation, as a model card reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.errors import DataError
from sam_diffsr.pipeline.card import read_scores
from sam_diffsr.pipeline.config import SamplingConfig

SAMPLING = {"sampler": "ddim", "steps": 1, "start": None, "spacing": "linspace"}


def write(path: Path, **changes: Any) -> Path:
    data: dict[str, Any] = {
        "dataset": "benchmark/Set5/HR",
        "protocol": "paper",
        "scale": 4,
        "border": 0,
        "seed": 3,
        "versions": {"sam-diffsr": "1.2"},
        "commit": "abc",
        "rows": [
            {"label": "bicubic", "sampling": None, "psnr_y": None, "ssim_y": 0.5, "images": [{}, {}]},
            {"label": "x", "sampling": SAMPLING, "psnr_y": 3.0, "ssim_y": 1, "fid": 2.5, "images": [{}, {}]},
        ],
        "unknown": "is left alone",
        **changes,
    }
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "gone"}))
    return path


def test_what_is_read(tmp_path: Path):
    scores = read_scores(write(tmp_path / "x.json"))
    assert (scores.dataset_name, scores.images, scores.scale, scores.border, scores.seed) == (
        "Set5",
        2,
        4,
        0,
        3,
    )
    assert scores.software == "sam-diffsr 1.2, commit abc"
    assert scores.rows[0].psnr_y is None
    row = scores.row_of(SamplingConfig(sampler="ddim", steps=1))
    assert row is not None
    assert (row.label, row.fid, row.lpips) == ("x", 2.5, None)
    assert scores.row_of(SamplingConfig(sampler="ddim", steps=2)) is None
    plain = read_scores(write(tmp_path / "y.json", commit=None, dataset="photos5"))
    assert (plain.software, plain.dataset_name) == ("sam-diffsr 1.2", "photos5")


def test_what_an_evaluation_writes_is_read(tmp_path: Path):
    from sam_diffsr.evaluation import evaluate_methods
    from sam_diffsr.evaluation.methods import bicubic_method
    from sam_diffsr.evaluation.report import write_json

    photo = Path(__file__).parents[2] / "examples" / "chelsea_lr.png"
    result = evaluate_methods([photo], [bicubic_method(4)], scale=4, dataset="one")
    write_json(tmp_path / "x.json", result.to_json())
    scores = read_scores(tmp_path / "x.json")
    assert scores.rows[0].psnr_y == result.rows[0].psnr_y
    assert scores.rows[0].artifacts == result.rows[0].artifacts
    assert scores.rows[0].seconds == result.rows[0].seconds
    assert scores.timing == result.timing
    assert scores.dataset_name == "one"


def test_refuses(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read the scores in .*gone"):
        read_scores(tmp_path / "gone.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"is not JSON .*; expected the file of `sam-diffsr evaluate --json`"):
        read_scores(tmp_path / "x.json")
    for key, value in {"rows": [], "versions": {}, "dataset": "gone"}.items():
        with pytest.raises(DataError, match="is not what `sam-diffsr evaluate --json` writes"):
            read_scores(write(tmp_path / "y.json", **{key: value}))
    (tmp_path / "z.json").write_text("[]")
    with pytest.raises(DataError, match="evaluate again with this version"):
        read_scores(tmp_path / "z.json")
