"""A validator gives what the evaluator would, and shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods
from sam_diffsr.evaluation.validation import FolderValidator
from sam_diffsr.models import DenoiserConfig, DiffSR, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver

CONFIG = ResolverConfig(
    model=ModelConfig(
        scale=2,
        encoder=EncoderConfig(blocks=2, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=4, multipliers=(1, 2)),
    ),
    sampling=SamplingConfig(sampler="ddim", steps=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in (("a", (41, 34)), ("b", (32, 50)), ("c", (60, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def model() -> DiffSR:
    torch.manual_seed(0)
    return build_model(CONFIG.model).requires_grad_(False).eval()


@pytest.mark.parametrize("method", ["encoder", "model"])
def test_scores_are_the_evaluators(method: str, folder: Path, model: DiffSR) -> None:
    validator = FolderValidator(folder, CONFIG, method=method)  # pyright: ignore[reportArgumentType]
    scores = validator(model).scores
    files = sorted(folder.iterdir())
    resolver = SuperResolver(model, CONFIG, device="cpu")
    methods = [bicubic_method(2), *model_methods(resolver, name="m")]
    rows = evaluate_methods(files, methods, scale=2).rows
    row = next(row for row in rows if row.method == method)
    assert scores == {
        "psnr_y": pytest.approx(row.psnr_y, abs=1e-4),
        "ssim_y": pytest.approx(row.ssim_y, abs=1e-6),
        "bicubic_psnr_y": pytest.approx(rows[0].psnr_y, abs=1e-9),
        "bicubic_ssim_y": pytest.approx(rows[0].ssim_y, abs=1e-9),
    }
    assert validator(model).scores == scores


def test_limit_crop_and_picture(folder: Path, model: DiffSR) -> None:
    validator = FolderValidator(folder, CONFIG, method="encoder", limit=2, crop=24, pictures=5)
    assert [tuple(pair.hr.shape) for pair in validator.pairs] == [(1, 3, 24, 24)] * 2
    pair = validator.pairs[0]
    source = np.asarray(Image.open(folder / "a.png"))[8:32, 4:28]
    np.testing.assert_array_equal(pair.hr[0].permute(1, 2, 0).numpy(), source)
    picture = validator(model).picture
    assert picture is not None
    assert picture.shape == (2 * 24 + 4, 4 * 24 + 3 * 4, 3)
    np.testing.assert_array_equal(picture[:24, -24:], source)
    np.testing.assert_array_equal(picture[0:2, 0:2], np.broadcast_to(pair.lr[0, :, 0, 0], (2, 2, 3)))
    assert (picture[24:28] == 255).all()


def test_no_picture(folder: Path, model: DiffSR) -> None:
    assert FolderValidator(folder, CONFIG, method="encoder", pictures=0, limit=1)(model).picture is None


def test_bad_arguments(folder: Path, tmp_path: Path) -> None:
    for crop in (25, 10):
        with pytest.raises(
            ArgumentError, match="crop must be a multiple of the scale 2 and at least 15, got"
        ):
            FolderValidator(folder, CONFIG, method="encoder", crop=crop)
    with pytest.raises(ArgumentError, match="limit must be >= 1 or None, got 0"):
        FolderValidator(folder, CONFIG, method="encoder", limit=0)
    with pytest.raises(ImageError, match="has no images to validate on"):
        FolderValidator(tmp_path, CONFIG, method="encoder")
    with pytest.raises(ImageError, match=r"a\.png has 34x41 pixels; at least 40"):
        FolderValidator(folder, CONFIG, method="encoder", crop=40)


def test_a_data_set_gives_its_truths(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "HR")
    shutil.copytree(folder, tmp_path / "LR_bicubic" / "X2")
    validator = FolderValidator(tmp_path, CONFIG, method="encoder")
    assert [pair.name for pair in validator.pairs] == ["a.png", "b.png", "c.png"]
