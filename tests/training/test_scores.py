"""The file of an evaluation, as a model card reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.errors import DataError
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.training.scores import ScoreRow, Scores, model_index, read_scores, scores_section

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


def scores(**changes: object) -> Scores:
    rows = (
        ScoreRow(label="bicubic", sampling=None, psnr_y=27.7386, ssim_y=0.79352, artifacts=0.0044),
        ScoreRow(
            label="x|y, ddim",
            sampling={**SAMPLING, "start": 6},
            psnr_y=28.8237,
            ssim_y=0.82081,
            artifacts=0.0036,
        ),
    )
    fields = {
        "dataset": "data/Set5/HR",
        "images": 5,
        "scale": 4,
        "protocol": "matlab",
        "border": 4,
        "seed": 0,
        "software": "sam-diffsr 1.0, commit abc",
        "rows": rows,
        **changes,
    }
    return Scores(**fields)  # type: ignore[arg-type]


def card(config: ResolverConfig, *, name: str, scores: Scores) -> str:
    row = scores.row_of(config.sampling)
    front = [] if row is None else model_index(name, scores, row)
    return model_card(config, name=name, front=front, details=scores_section(name, scores))


def test_scores_are_a_table_and_an_index_that_the_hub_reads():
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
    text = card(config, name='odd: "name"', scores=scores())
    assert "Means over the 5 images of Set5, x4, without a border of 4 pixels (protocol `matlab`)" in text
    assert "| | PSNR-Y | SSIM-Y | artifacts 1e-4 |" in text
    assert r"| x\|y, ddim | 28.82 | 0.8208 | 36.00 |" in text
    assert "sam-diffsr evaluate --hr Set5 --model 'odd: \"name\"' --protocol matlab --seed 0" in text
    data = ModelCard(text).data
    assert data.metrics == ["psnr", "ssim"]
    assert data.model_name == 'odd: "name"'
    results = {result.metric_type: result for result in data.eval_results}
    assert (results["psnr"].metric_value, results["ssim"].metric_value) == (28.8237, 0.8208)
    assert {result.dataset_name for result in data.eval_results} == {"Set5"}
    assert results["psnr"].task_type == "image-to-image"


def test_times_are_in_the_table_where_it_is_known_what_they_are_of():
    rows = tuple(
        replace(row, seconds=seconds) for row, seconds in zip(scores().rows, (None, 1.234), strict=True)
    )
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
    text = card(config, name="m", scores=scores(rows=rows, timing="seconds of this; on cpu, 1 thread"))
    assert "| | PSNR-Y | SSIM-Y | artifacts 1e-4 | s/image |" in text
    assert r"| x\|y, ddim | 28.82 | 0.8208 | 36.00 | 1.23 |" in text
    assert "\n\ns/image: seconds of this; on cpu, 1 thread.\n" in text
    assert "s/image" not in card(config, name="m", scores=scores(rows=rows))


def test_the_command_asks_for_what_the_table_shows():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
    assert "--seed 0\n" in card(config, name="m", scores=scores())
    rows = tuple(replace(row, lpips=0.25, fid=30.0) for row in scores().rows)
    assert "--seed 0 --lpips --fid\n" in card(config, name="m", scores=scores(rows=rows))


def test_scores_at_another_sampling_are_no_index():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=2, start=6))
    text = card(config, name="m", scores=scores(border=0, protocol="paper"))
    assert "model-index" not in text
    assert "on whole images (protocol `paper`)" in text
