"""Model cards: front matter that the Hub understands, and an example that names the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sam_diffsr.pipeline.card import ScoreRow, Scores, markdown_table, model_card
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig

SAMPLING = {"sampler": "ddim", "steps": 1, "start": 6, "spacing": "linspace"}


def scores(**changes: object) -> Scores:
    rows = (
        ScoreRow(label="bicubic", sampling=None, psnr_y=27.7386, ssim_y=0.79352, artifacts=0.0044),
        ScoreRow(label="x|y, ddim", sampling=SAMPLING, psnr_y=28.8237, ssim_y=0.82081, artifacts=0.0036),
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


def test_the_card_names_the_model_and_what_it_is_made_of():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=8, start=40))
    card = model_card(
        config, name="team/x4", license="apache-2.0", datasets=["photos"], details="## Scores\n\n27 dB\n"
    )
    front, body = card.removeprefix("---\n").split("---\n", 1)
    for line in (
        "library_name: sam_diffsr",
        "pipeline_tag: image-to-image",
        "license: apache-2.0",
        '- "photos"',
    ):
        assert line in front.splitlines()
    assert 'SuperResolver.from_pretrained("team/x4")' in body
    assert "| encoder | 17 RRDB blocks, 64 channels, growth 32 |" in body
    assert "ddim, 8 steps, from the encoder's image, noised to t = 40" in body
    assert body.endswith("## Scores\n\n27 dB\n")


def test_what_is_unknown_is_left_out():
    card = model_card(ResolverConfig(sampling=SamplingConfig(sampler="ddpm", steps=100)), name="m")
    assert "license" not in card
    assert "datasets" not in card
    assert "from pure noise" in card


def test_the_hub_client_reads_the_front_matter():
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddpm", steps=100))
    data = ModelCard(model_card(config, name="m", license="mit", datasets=["a", "b"])).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("sam_diffsr", "image-to-image", "mit")
    assert data.datasets == ["a", "b"]
    assert "super-resolution" in data.tags


def test_scores_are_a_table_and_an_index_that_the_hub_reads():
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
    text = model_card(config, name='odd: "name"', scores=scores())
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
    text = model_card(config, name="m", scores=scores(rows=rows, timing="seconds of this; on cpu, 1 thread"))
    assert "| | PSNR-Y | SSIM-Y | artifacts 1e-4 | s/image |" in text
    assert r"| x\|y, ddim | 28.82 | 0.8208 | 36.00 | 1.23 |" in text
    assert "\n\ns/image: seconds of this; on cpu, 1 thread.\n" in text
    assert "s/image" not in model_card(config, name="m", scores=scores(rows=rows))


def test_the_command_asks_for_what_the_table_shows():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))
    assert "--seed 0\n" in model_card(config, name="m", scores=scores())
    rows = tuple(replace(row, lpips=0.25, fid=30.0) for row in scores().rows)
    assert "--seed 0 --lpips --fid\n" in model_card(config, name="m", scores=scores(rows=rows))


def test_scores_at_another_sampling_are_no_index():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=2, start=6))
    text = model_card(config, name="m", scores=scores(border=0, protocol="paper"))
    assert "model-index" not in text
    assert "on whole images (protocol `paper`)" in text


def test_cells_of_a_table_are_escaped():
    assert markdown_table(["", "a"], [["x|y", "1\n2"]]) == ["| | a |", "| --- | --- |", r"| x\|y | 1 2 |"]
