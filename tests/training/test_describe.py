"""What a card says of a run is what its files say; what they do not say is left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.data.crops import write_manifest
from sam_diffsr.training.describe import data_section, training_hours, training_section
from sam_diffsr.training.state import Checkpoint, read_checkpoint


def crops_of(folder: Path, sources: list[dict[str, Any]], **settings: Any) -> Path:
    folder.mkdir()
    settings = {"segmenter": "Graph(x=1)", "encoding": "rope", "reduction": "image", **settings}
    write_manifest(folder, crops=9, crop_size=64, sources=sources, settings=settings)
    return folder


def text(config: dict[str, Any], run: Path) -> str:
    return "\n".join(data_section(config, run=run))


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
    assert "Regions of the photographs come from mask files that were made before." in card
    assert "divided by the region's area" in card


def test_crops_of_a_plain_folder_lie_in_the_run(tmp_path: Path) -> None:
    crops_of(tmp_path / "crops", [{"file": "a.png", "crops": 9, "reduction": 1.0}], segmenter="none")
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
    assert "photographs in `leaves`." in card
    made = crops_of(tmp_path / "made", [{"file": "synthetic 0", "crops": 1}], synthetic={"count": 9})
    assert "9 synthetic images of 64 x 64 pixels." in text({"data": {"crops": str(made)}}, tmp_path)


def test_augmentation_is_named_where_it_was_on(tmp_path: Path) -> None:
    data = {"synthetic": {}, "augment": {"permute_channels": 0.5, "mixup": 0.25, "mixup_alpha": 1.2}}
    assert (
        "windows were varied: channels in another order with a probability of 0.5, blended by twos with a "
        "probability of 0.25."
    ) in text({"data": data}, tmp_path)
    off = {"synthetic": {}, "augment": {"permute_channels": 0.0, "mixup": 0.0, "mixup_alpha": 1.2}}
    assert "varied" not in text({"data": off}, tmp_path) + text({"data": {"synthetic": {}}}, tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"diffusion": {"modulation": "none"}}, "Structure was not used: the noise carried none."),
        ({"data": {"structure": "zero"}}, "Structure was not used: E = 0 everywhere."),
    ],
)
def test_structure_that_was_not_used(config, expected, tmp_path: Path) -> None:
    assert expected in text({"data": {"synthetic": {}}, **config} | config, tmp_path)


def test_crops_that_are_gone_are_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        card = text({"data": {"crops": "far/away/crops"}}, tmp_path)
    assert "Crops in `crops`, whose manifest was not there when this was written." in card
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


def test_both_stages_are_told_of(encoder_run: Path) -> None:
    encoder = read_checkpoint(encoder_run)
    config = {
        **encoder.config,
        "diffusion": {"encoder": str(encoder_run)},
        "optimizer": {"name": "adamw", "lr": 2e-4, "schedule": "halving", "halve_every": 200000},
        "key": "of another version",
    }
    lines = training_section(_denoiser(encoder, config), run=encoder_run)
    assert "| | encoder | denoiser |" in lines
    assert "| steps | 2 | 2 |" in lines
    assert "| loss | l1 | l1 on the noise |" in lines
    assert (
        "| optimizer | Adam, learning rate 0.001 (halving) | AdamW, learning rate 0.0002 (halving) |" in lines
    )
    assert "| gradient norm at most | 10 | |" in lines
    assert "| patch | 16 x 16 HR pixels | 16 x 16 HR pixels |" in lines


def test_an_encoder_that_is_no_run_is_named(
    encoder_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = read_checkpoint(encoder_run)
    for source in (tmp_path, Path("sam-diffsr-x4-small")):  # a folder without checkpoints; a bundled name
        with caplog.at_level(logging.WARNING):
            lines = training_section(
                _denoiser(encoder, {"diffusion": {"encoder": str(source)}}), run=encoder_run
            )
        assert f"The encoder was taken from `{source.name}`." in lines
        assert "is no run folder" in caplog.text
        assert "| | denoiser |" in lines
        assert "| steps | 2 |" in lines


def _denoiser(checkpoint: Checkpoint, config: dict[str, Any]) -> Checkpoint:
    from dataclasses import replace

    return replace(checkpoint, stage="denoiser", config=config)
