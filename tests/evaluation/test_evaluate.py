"""Tables from folders: the numbers are those of the parts, and what cannot be compared is refused."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import pytest
import torch
from PIL import Image

from sam_diffsr.data.degrade import parse_degradation
from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.evaluation import evaluate
from sam_diffsr.evaluation.evaluate import ImageResult, evaluate_methods, result_writer
from sam_diffsr.evaluation.measures import MEASURES, artifact_score, colour_shift
from sam_diffsr.evaluation.methods import (
    Method,
    Setting,
    bicubic_method,
    folder_methods,
    model_methods,
    results_method,
)
from sam_diffsr.evaluation.metrics import psnr_rgb, psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import Pair, read_pair, to_uint8
from sam_diffsr.pipeline import SamplingConfig
from sam_diffsr.resize import imresize


def test_rows_hold_what_their_parts_give(resolver, evaluate_model, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=1), SamplingConfig(sampler="dpmpp_2m", steps=2, start=4)]
    result = evaluate_model(photos, settings=[Setting(sampling=one) for one in settings], seed=3)
    assert [(row.method, row.name) for row in result.rows] == [
        ("bicubic", ""),
        ("encoder", "tiny"),
        ("model", "tiny"),
        ("model", "tiny"),
    ]
    assert [row.sampling for row in result.rows[2:]] == settings
    assert (result.border, result.scale, result.seed) == (4, 4, 3)
    assert result.cropped == ("0.png", "1.png")
    pair = read_pair(photos[1], scale=4)
    lr = pair.lr.float() / 255
    expected = {
        0: imresize(lr, 4),
        1: resolver.upscale_tensor(lr, seeds=[3], steps=0),
        3: resolver.upscale_tensor(lr, seeds=[3], sampler="dpmpp_2m", steps=2, start=4),
    }
    for row, sr in expected.items():
        score = result.rows[row].images[1]
        assert score.name == "1.png"
        assert score.lpips is None
        assert score.seconds is not None
        for metric in (psnr_y, ssim_y, psnr_rgb):
            wanted = metric(to_uint8(sr), pair.hr, border=4, data_range=255).item()
            assert getattr(score, metric.__name__) == pytest.approx(wanted)
        wanted = artifact_score(to_uint8(sr), pair.hr, border=4, data_range=255).item()
        assert score.artifacts == pytest.approx(wanted)


def test_a_mean_is_one_of_per_image_values(evaluate_model, photos) -> None:
    row = evaluate_model(photos).rows[0]
    for name in ("psnr_y", "ssim_y", "psnr_rgb", "artifacts", "seconds"):
        assert getattr(row, name) == pytest.approx(sum(getattr(score, name) for score in row.images) / 2)


def test_the_papers_protocol_has_no_border(evaluate_model, photos) -> None:
    result = evaluate_model(photos[:1], protocol="paper")
    pair = read_pair(photos[0], scale=4)
    bicubic = to_uint8(imresize(pair.lr.float() / 255, 4))
    assert result.border == 0
    expected = psnr_y(bicubic, pair.hr, border=0, data_range=255).item()
    assert result.rows[0].psnr_y == pytest.approx(expected)


def test_inputs_can_be_files(photos, tmp_path) -> None:
    inputs = []
    for file in photos:
        pair = read_pair(file, scale=4)
        inputs.append(tmp_path / f"{pair.stem}x4.png")
        darker = (pair.lr[0] // 2).permute(1, 2, 0).numpy()
        Image.fromarray(darker).save(inputs[-1])
    made = evaluate_methods(photos, [bicubic_method(4)], scale=4)
    given = evaluate_methods(photos, [bicubic_method(4)], scale=4, lr_files=inputs)
    assert given.rows[0].psnr_y < made.rows[0].psnr_y - 3
    assert given.lr == str(tmp_path)
    assert f"inputs from {tmp_path}" in given.heading()
    assert "inputs" not in made.heading()


def test_perceptual_measures_are_asked_for(photos) -> None:
    seen: list[tuple[int, ...]] = []

    def lpips(sr: torch.Tensor, hr: torch.Tensor) -> float:
        seen.append(tuple(sr.shape))
        return (sr.float() - hr.float()).abs().mean().item()

    def features(image: torch.Tensor) -> torch.Tensor:
        return image.float().mean(dim=(0, 2, 3))

    methods = [bicubic_method(4)]
    plain = evaluate_methods(photos, methods, scale=4).rows[0]
    assert (plain.lpips, plain.fid) == (None, None)
    result = evaluate_methods(photos, methods, scale=4, lpips=lpips, features=features)
    (row,) = result.rows
    assert seen[0] == (1, 3, 28, 36)
    assert row.lpips == pytest.approx(sum(score.lpips or 0 for score in row.images) / 2)
    assert row.lpips is not None
    assert row.lpips > 0
    assert row.fid is not None
    assert row.fid > 0
    assert {"LPIPS", "FID"} <= set(result.columns()[0])
    assert {"lpips", "torch-fidelity"} <= result.versions.keys()


def test_further_measures_are_asked_for(photos) -> None:
    methods = [bicubic_method(4), results_method(photos, photos, name="truth")]
    plain = evaluate_methods(photos, methods, scale=4)
    assert plain.rows[0].measures == {}
    assert not set(MEASURES) & set(plain.columns()[0])
    result = evaluate_methods(photos, methods, scale=4, measures=["grain", "colour", "grain"])
    bicubic, truth = result.rows
    assert list(truth.measures) == ["grain", "colour"]
    pair = read_pair(photos[1], scale=4)
    enlarged = to_uint8(imresize(pair.lr.float() / 255, 4))
    shift = colour_shift(pair.hr, enlarged, border=4, data_range=255).item()
    assert truth.images[1].measures["colour"] == pytest.approx(shift)
    assert truth.measures["colour"] == max(score.measures["colour"] or 0 for score in truth.images)
    assert bicubic.measures["colour"] == 0
    assert truth.images[0].measures["grain"] is None  # nothing is flat in these photographs
    assert truth.measures["grain"] is None
    assert "colour" in result.columns()[0]
    assert "grain" in result.columns()[0]  # an empty column was asked for
    assert [note.partition(":")[0] for note in result.notes()] == ["grain", "colour", "s/image"]
    with pytest.raises(ArgumentError, match="unknown measures lines; expected some of ringing, "):
        evaluate_methods(photos, methods, scale=4, measures=["lines"])


def test_a_row_has_the_mean_or_the_worst_of_the_images_that_have_a_value() -> None:
    assert MEASURES["ringing"].of_row([0.25, None, 0.75]) == 0.5
    assert MEASURES["colour"].of_row([0.25, None, 0.75]) == 0.75
    assert MEASURES["ringing"].of_row([None]) is None
    assert MEASURES["colour"].of_row([None]) is None


@pytest.mark.parametrize(
    ("device", "calls"), [("cpu", ["0.png", "1.png"]), ("cuda:0", ["0.png"] * 2 + ["1.png"])]
)
def test_an_accelerator_is_warm_before_its_time_is_taken(photos, monkeypatch, device, calls) -> None:
    machine = {"device": device, "device_name": "a card", "threads": 3}
    monkeypatch.setattr(evaluate, "describe_machine", lambda asked: machine)
    called: list[str] = []

    def enlarge(pair: Pair, seed: int) -> torch.Tensor:
        called.append(pair.name)
        return bicubic_method(4).enlarge(pair, seed)

    methods = [Method(kind="model", name="m", enlarge=enlarge), results_method(photos, photos, name="files")]
    result = evaluate_methods(photos, methods, scale=4)
    assert called == calls
    assert result.timing.endswith({"cpu": "; on cpu, 3 threads", "cuda:0": "; on cuda:0, a card"}[device])
    assert result.rows[0].seconds is not None
    assert result.rows[1].seconds is None


def test_each_image_is_shown_when_it_is_done(evaluate_model, photos) -> None:
    results: list[ImageResult] = []
    evaluation = evaluate_model(photos, on_image=results.append)
    assert [result.pair.name for result in results] == ["0.png", "1.png"]
    for index, result in enumerate(results):
        assert result.scores == tuple(row.images[index] for row in evaluation.rows)
        assert all(output.dtype == torch.uint8 for output in result.outputs)
        assert all(output.shape == result.pair.hr.shape for output in result.outputs)


def test_refuses(photos) -> None:
    bicubic = [bicubic_method(4)]
    cases: list[Any] = [
        ([], bicubic, {}, "no images to evaluate on"),
        (photos, bicubic, {"protocol": "other"}, "protocol must be one of matlab, paper"),
        (photos, [], {}, "nothing to evaluate; expected at least one method"),
        (photos, bicubic, {"lr_files": photos[:1]}, "expected one input per truth, 2 in all, got 1"),
        (photos[:1], bicubic, {"features": lambda image: image}, "FID needs at least 2 images"),
        (
            photos,
            bicubic,
            {"lr_files": photos, "damages": [parse_degradation("noise9")]},
            "leave out input files and result files",
        ),
    ]
    for files, rows, options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            evaluate_methods(files, rows, scale=4, **options)


def test_damages_make_a_row_for_each_method(resolver, photos) -> None:
    seen: list[ImageResult] = []
    methods = [bicubic_method(4), *model_methods(resolver, name="tiny")]
    damages = [parse_degradation("bicubic"), parse_degradation("noise40")]
    result = evaluate_methods(photos, methods, scale=4, damages=damages, on_image=seen.append)
    assert [row.label for row in result.rows] == [
        "bicubic: bicubic",
        "bicubic: tiny, encoder",
        "bicubic: tiny, ddim 2 steps",
        "noise40: bicubic",
        "noise40: tiny, encoder",
        "noise40: tiny, ddim 2 steps",
    ]
    assert result.rows[3].psnr_y < result.rows[0].psnr_y - 3
    header, lines = result.columns()
    assert header[0] == "damage"
    assert [line[header.index("gain")] for line in (lines[0], lines[3])] == ["+0.000", "+0.000"]
    assert "inputs from the truths, damaged by bicubic, noise40" in result.heading()
    # the clean rows are the usual ones, and a damage depends on the seed and the image's name alone
    usual = evaluate_methods(photos, methods, scale=4)
    assert [row.psnr_y for row in usual.rows] == [row.psnr_y for row in result.rows[:3]]
    again = evaluate_methods(photos[1:], methods, scale=4, damages=damages[1:])
    assert again.rows[0].images[0].psnr_y == result.rows[3].images[1].psnr_y
    other = evaluate_methods(photos[1:], methods, scale=4, damages=damages[1:], seed=1)
    assert other.rows[0].images[0].psnr_y != again.rows[0].images[0].psnr_y
    assert [(one.damage, one.pair.name) for one in seen] == [
        ("bicubic", "0.png"),
        ("noise40", "0.png"),
        ("bicubic", "1.png"),
        ("noise40", "1.png"),
    ]


def test_gray_files_are_scored_on_their_gray_values(photos, tmp_path) -> None:
    gray = tmp_path / "gray.png"
    Image.open(photos[0]).convert("L").save(gray)
    (row,) = evaluate_methods([gray, photos[1]], [bicubic_method(4)], scale=4).rows
    values = read_pair(gray, scale=4).hr[:, :1].double()
    bicubic = to_uint8(imresize(read_pair(gray, scale=4).lr.float() / 255, 4))[:, :1].double()
    error = (bicubic - values)[..., 4:-4, 4:-4].square().mean()
    expected = 10 * torch.log10(255**2 / error).item()
    assert row.images[0].psnr_y == pytest.approx(expected)
    assert row.images[0].psnr_rgb == pytest.approx(expected)
    result = evaluate_methods([gray, photos[1]], [bicubic_method(4)], scale=4)
    assert result.gray == ("gray.png",)
    assert "1 gray image scored on gray values" in result.heading()
    # the paper's protocol converts gray to luma, whose range is 219 of 255
    paper = evaluate_methods([gray], [bicubic_method(4)], scale=4, protocol="paper")
    assert paper.gray == ()
    image = paper.rows[0].images[0]
    assert image.psnr_y - image.psnr_rgb == pytest.approx(20 * math.log10(255 / 219), abs=1e-6)


def test_saved_results_score_as_they_did(resolver, photos, tmp_path) -> None:
    Image.open(photos[0]).convert("L").save(photos[0])
    methods = [bicubic_method(4), *model_methods(resolver, name="tiny")]
    write = result_writer(tmp_path / "sr", methods, hr_files=photos)
    first = evaluate_methods(photos, methods, scale=4, on_image=write)
    inputs = tmp_path / "sr" / "lr"
    saved = [tmp_path / "sr" / name for name in ("bicubic", "tiny_encoder", "tiny_ddim_2_steps")]
    assert set((tmp_path / "sr").iterdir()) == {inputs, *saved}
    assert sorted(os.listdir(saved[2])) == ["0.png", "1.png"]
    again = evaluate_methods(
        photos, folder_methods([(folder.name, folder) for folder in saved], photos, scale=4), scale=4
    )
    for row, new_row in zip(first.rows, again.rows, strict=True):
        assert new_row.name == row.label.replace(", ", "_").replace(" ", "_")
        for old, new in zip(row.images, new_row.images, strict=True):
            assert dataclasses.replace(old, seconds=None) == new
    lr_files = sorted(inputs.iterdir())
    from_files = evaluate_methods(photos, methods, scale=4, lr_files=lr_files)
    assert [row.psnr_y for row in from_files.rows] == [row.psnr_y for row in first.rows]


def test_result_folders_are_separate_or_refused(resolver, photos, tmp_path) -> None:
    methods = [*model_methods(resolver, name="a/b"), *model_methods(resolver, name="a:b")]
    result_writer(tmp_path / "x", methods, hr_files=[], damages=["jpeg50", "photo"])
    assert sorted(os.listdir(tmp_path / "x")) == ["jpeg50", "photo"]
    assert sorted(os.listdir(tmp_path / "x" / "photo")) == [
        "a_b_ddim_2_steps",
        "a_b_ddim_2_steps_2",
        "a_b_encoder",
        "a_b_encoder_2",
        "lr",
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write the folders of results in .*file"):
        result_writer(tmp_path / "file", methods, hr_files=[])
    double = [*photos, photos[0].with_suffix(".jpg")]
    message = r"0\.png and .*0\.jpg differ only in their endings, .* whose results .*sr is to hold"
    with pytest.raises(ImageError, match=message):
        result_writer(tmp_path / "sr", methods, hr_files=double)
    assert not (tmp_path / "sr").exists()


def test_results_are_not_saved_over_images_to_evaluate(resolver, photos, tmp_path) -> None:
    methods = [*model_methods(resolver, name="tiny")]
    result_writer(tmp_path / "sr", methods, hr_files=photos)
    for name in ("lr", "tiny_encoder"):
        held = tmp_path / "sr" / name / "0.png"
        for files in ({"hr_files": [held]}, {"hr_files": photos, "lr_files": [held]}):
            with pytest.raises(ArgumentError, match=rf"{name} holds images to evaluate"):
                result_writer(tmp_path / "sr", methods, **files)


def test_nothing_here_touches_torchs_random_state(photos) -> None:
    before = torch.get_rng_state()
    evaluate_methods(photos, [bicubic_method(4)], scale=4, damages=[parse_degradation("noise10")])
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_are_checked_before_the_first_image_is_enlarged(resolver, photos, tmp_path) -> None:
    inputs = []
    for index, size in enumerate([(11, 9), (9, 12)]):
        inputs.append(tmp_path / f"{index}.png")
        Image.new("RGB", size).save(inputs[-1])
    started: list[ImageResult] = []
    with pytest.raises(ImageError, match=r"1\.png has 9x12 pixels; expected 8x12"):
        evaluate_methods(
            photos,
            model_methods(resolver, name="tiny"),
            scale=4,
            lr_files=inputs,
            on_image=started.append,
        )
    assert started == []


@pytest.mark.parametrize("keep", [20, 300])
def test_a_damaged_image_is_named(photos, keep) -> None:
    photos[1].write_bytes(photos[1].read_bytes()[:keep])  # within the header, and after it
    with pytest.raises(ImageError, match=r"1\.png"):
        evaluate_methods(photos, [bicubic_method(4)], scale=4)
