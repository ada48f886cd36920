"""Tables from folders: the numbers are those of the parts, and what cannot be compared is refused."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation import evaluate
from sam_diffsr.evaluation.artifacts import artifact_score
from sam_diffsr.evaluation.evaluate import ImageResult, evaluate_images, evaluate_methods
from sam_diffsr.evaluation.measures import colour_shift
from sam_diffsr.evaluation.measures import MEASURES
from sam_diffsr.evaluation.methods import Method, bicubic_method, encoder_only, model_methods, results_method
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import Pair, read_pair, to_uint8
from sam_diffsr.pipeline import SamplingConfig
from sam_diffsr.resize import imresize


def test_rows_hold_what_their_parts_give(resolver, photos) -> None:
    settings = [SamplingConfig(sampler="ddim", steps=1), SamplingConfig(sampler="dpmpp_2m", steps=2, start=4)]
    result = evaluate_images(resolver, photos, model_name="tiny", settings=settings, seed=3)
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
        1: encoder_only(resolver, lr),
        3: resolver.upscale_tensor(lr, seeds=[3], sampler="dpmpp_2m", steps=2, start=4),
    }
    for row, sr in expected.items():
        score = result.rows[row].images[1]
        assert score.name == "1.png"
        assert score.lpips is None
        assert score.seconds is not None
        for metric in (psnr_y, ssim_y):
            wanted = metric(to_uint8(sr), pair.hr, border=4, data_range=255).item()
            assert getattr(score, metric.__name__) == pytest.approx(wanted)
        wanted = artifact_score(to_uint8(sr), pair.hr, border=4, data_range=255).item()
        assert score.artifacts == pytest.approx(wanted)


def test_a_mean_is_one_of_per_image_values(resolver, photos) -> None:
    row = evaluate_images(resolver, photos, model_name="tiny").rows[0]
    for name in ("psnr_y", "ssim_y", "artifacts", "seconds"):
        assert getattr(row, name) == pytest.approx(sum(getattr(score, name) for score in row.images) / 2)


def test_the_papers_protocol_has_no_border(resolver, photos) -> None:
    result = evaluate_images(resolver, photos[:1], model_name="tiny", protocol="paper")
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
    assert "grain" not in result.columns()[0]
    assert [note.partition(":")[0] for note in result.notes()] == ["colour", "s/image"]
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


def test_each_image_is_shown_when_it_is_done(resolver, photos) -> None:
    results: list[ImageResult] = []
    evaluation = evaluate_images(resolver, photos, model_name="tiny", on_image=results.append)
    assert [result.pair.name for result in results] == ["0.png", "1.png"]
    for index, result in enumerate(results):
        assert result.scores == tuple(row.images[index] for row in evaluation.rows)
        assert all(output.dtype == torch.uint8 for output in result.outputs)
        assert all(output.shape == result.pair.hr.shape for output in result.outputs)


def test_refuses(resolver, photos) -> None:
    with pytest.raises(ArgumentError, match="no images to evaluate on"):
        evaluate_images(resolver, [], model_name="tiny")
    with pytest.raises(ArgumentError, match="protocol must be one of matlab, paper"):
        evaluate_images(resolver, photos, model_name="tiny", protocol="other")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="nothing to evaluate; expected at least one method"):
        evaluate_methods(photos, [], scale=4)
    with pytest.raises(ArgumentError, match="expected one input a truth, 2 in all, got 1"):
        evaluate_methods(photos, [bicubic_method(4)], scale=4, lr_files=photos[:1])
    with pytest.raises(ArgumentError, match="at least 2 images, got 1"):
        evaluate_methods(photos[:1], [bicubic_method(4)], scale=4, features=lambda image: image)


def test_sizes_are_checked_before_the_first_image_is_enlarged(resolver, photos, tmp_path) -> None:
    inputs = []
    for index, size in enumerate([(11, 9), (9, 12)]):
        inputs.append(tmp_path / f"{index}.png")
        Image.new("RGB", size).save(inputs[-1])
    started: list[ImageResult] = []
    with pytest.raises(ImageError, match=r"1\.png has 12x9 pixels; expected 12x8"):
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
