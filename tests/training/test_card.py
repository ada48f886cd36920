"""Model cards state what a run's files state; the rest is left out."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.training import TrainConfig
from sam_diffsr.training.card import data_section, training_hours, training_section
from sam_diffsr.training.state import Checkpoint, checkpoint_path, read_checkpoint, write_checkpoint


def crops_of(folder: Path, sources: list[dict[str, Any]], **settings: Any) -> Path:
    folder.mkdir()
    settings = {"segmenter": "Graph(x=1)", "encoding": "rope", "reduction": "image", **settings}
    manifest = {"format_version": 1, "crops": 9, "crop_size": 64, "sources": sources, "settings": settings}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def text(config: dict[str, Any], run: Path) -> str:
    tree = to_dict(from_dict(TrainConfig, config))
    path = checkpoint_path(run, 0)
    return data_section(Checkpoint(path=path, step=0, stage="denoiser", config=tree, network={}, ema={}))


def test_photographs_are_named_with_licence_and_author(tmp_path: Path) -> None:
    sources = [
        {"file": "b.jpg", "crops": 2, "reduction": 1.6, "licence": "CC0-1.0, B | C"},
        {"file": "a.jpg", "crops": 3, "reduction": 2.0, "licence": None},
        {"file": "b.jpg", "crops": 4, "reduction": 2.0, "licence": "CC0-1.0, B | C"},
    ]
    crops = crops_of(tmp_path / "crops", sources, min_gradient=2.5)
    card = text({"data": {"crops": str(crops)}}, tmp_path)
    assert "9 crops of 64 x 64 pixels from 2 photographs, which were reduced by 1.6, 2 first" in card
    assert "without crops flatter than 2.5 levels" in card
    assert "| a.jpg | unknown | 3 |" in card
    assert r"| b.jpg | CC0-1.0, B \| C | 6 |" in card
    assert "**The regions of the photographs are not SAM's.** They come from `Graph(x=1)`." in card
    assert "The structure field is `rope`, divided by the image's area." in card


def test_photographs_without_licences_are_counted_only(tmp_path: Path) -> None:
    crops = crops_of(tmp_path / "crops", [{"file": "0001.png", "crops": 9}], segmenter="masks")
    card = text({"data": {"crops": str(crops), "reduction": "region"}}, tmp_path)
    assert "0001.png" not in card
    assert "Regions of the photographs come from mask files." in card
    assert "divided by the region's area" in card


def test_crops_of_a_plain_folder_lie_in_the_run(tmp_path: Path) -> None:
    crops_of(tmp_path / ".crops", [{"file": "a.png", "crops": 9, "reduction": 1.0}], segmenter="none")
    card = text({"data": {"photos": "somewhere"}}, tmp_path)
    assert "9 crops of 64 x 64 pixels from 1 photograph." in card
    assert "The photographs have no regions: E = 0 there." in card


def test_synthetic_images_and_their_share(tmp_path: Path) -> None:
    synthetic = {"pages": 0.15, "photos": None}
    card = text({"data": {"synthetic": synthetic, "synthetic_fraction": 0.5}}, tmp_path)
    assert "100% of each batch is synthetic" in card
    assert "from natural statistics; 15% of these images are pages of text and line art." in card
    assert "Regions of synthetic images are exact." in card
    crops = crops_of(tmp_path / "crops", [{"file": "a.png", "crops": 9}])
    mixed = {"synthetic": {"photos": "x/leaves"}, "synthetic_fraction": 0.25, "crops": str(crops)}
    card = text({"data": mixed}, tmp_path)
    assert "25% of each batch is synthetic" in card
    assert "photographs in `leaves`; 15% of these" in card
    made = crops_of(tmp_path / "made", [{"file": "synthetic 0", "crops": 1}], synthetic={"count": 9})
    assert "9 synthetic images of 64 x 64 pixels." in text({"data": {"crops": str(made)}}, tmp_path)


def test_augmentation_is_named_where_it_was_on(tmp_path: Path) -> None:
    data = {"synthetic": {}, "augment": {"permute_channels": 0.5, "mixup": 0.25, "mixup_alpha": 1.2}}
    assert (
        "Augmentation in addition to flips and rotations: permuted colour channels with probability 0.5, "
        "mixup with probability 0.25."
    ) in text({"data": data}, tmp_path)
    off = {"synthetic": {}, "augment": {"permute_channels": 0.0, "mixup": 0.0, "mixup_alpha": 1.2}}
    assert "Augmentation" not in text({"data": off}, tmp_path) + text({"data": {"synthetic": {}}}, tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"diffusion": {"modulation": "none"}}, "Structure was not used: E = 0 everywhere."),
        ({"data": {"synthetic": {}, "structure": "zero"}}, "Structure was not used: E = 0 everywhere."),
    ],
)
def test_structure_that_was_not_used(config, expected, tmp_path: Path) -> None:
    assert expected in text({"data": {"synthetic": {}}, **config} | config, tmp_path)


def test_crops_that_are_gone_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        card = text({"data": {"crops": "far/away/crops"}}, tmp_path)
    assert "Crops in `crops`, whose manifest was not found." in card
    assert "the card does not describe the crops" in caplog.text


def test_hours_are_those_of_the_steps(tmp_path: Path) -> None:
    records = [
        {"step": 100, "images_per_second": 2.0},
        {"step": 100, "psnr_y": 30.0},
        {"step": 300, "images_per_second": 4.0},
        {"step": 400, "images_per_second": 1.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert training_hours(tmp_path, steps=300, batch=8) == pytest.approx((100 * 8 / 2 + 200 * 8 / 4) / 3600)
    assert training_hours(tmp_path / "elsewhere", steps=300, batch=8) is None


def test_both_stages_are_described(encoder_run: Path) -> None:
    encoder = read_checkpoint(encoder_run)
    optimizer = {"name": "adamw", "lr": 2e-4, "schedule": "cosine"}
    config = from_dict(
        TrainConfig, {**encoder.config, "diffusion": {"encoder": str(encoder_run)}, "optimizer": optimizer}
    )
    for run in (encoder_run, encoder.path):  # a run folder, and a checkpoint inside it
        config = replace(config, diffusion=replace(config.diffusion, encoder=str(run)))
        denoiser = replace(encoder, stage="denoiser", config=to_dict(config))
        lines = training_section(denoiser).splitlines()
        assert "| | encoder | denoiser |" in lines
        assert "| steps | 2 | 2 |" in lines
        assert "| loss | l1 | l1 on the noise |" in lines
        assert (
            "| optimizer | Adam, learning rate 0.001 (halving) | AdamW, learning rate 0.0002 (cosine) |"
            in lines
        )
        assert "| halved every | 200000 steps | |" in lines
        assert "| patch | 16 x 16 HR pixels | 16 x 16 HR pixels |" in lines
        assert "| hours of training | less than 0.1 | less than 0.1 |" in lines


@pytest.mark.parametrize("kind", ["folder", "bundled", "other version"])
def test_encoder_that_cannot_be_described_is_named(
    kind: str, encoder_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = read_checkpoint(encoder_run)
    source = Path("sam-diffsr-x4-small") if kind == "bundled" else tmp_path
    if kind == "other version":
        strange = replace(encoder, path=checkpoint_path(tmp_path, 2), config={**encoder.config, "key": 1})
        write_checkpoint(strange, keep=1)
    config = {**encoder.config, "diffusion": {"encoder": str(source)}}
    with caplog.at_level(logging.WARNING):
        lines = training_section(replace(encoder, stage="denoiser", config=config)).splitlines()
    assert f"The encoder was taken from `{source.name}`." in lines
    assert "the card does not describe the encoder's training" in caplog.text
    assert "| | denoiser |" in lines
    assert "| steps | 2 |" in lines
