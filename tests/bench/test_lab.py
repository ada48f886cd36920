"""The programs in ``examples/lab`` run, and the way of an image through the package stays short."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from sam_diffsr import SuperResolver

LAB = Path(__file__).resolve().parents[2] / "examples" / "lab"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *args])
    runpy.run_path(str(LAB / name), run_name="__main__")


def test_at_most_eight_frames_lead_to_the_unet(resolver, tmp_path: Path, monkeypatch, capsys) -> None:
    resolver.save_pretrained(tmp_path / "tiny")
    target = tmp_path / "path.json"
    run(monkeypatch, "path_of_an_image.py", "--model", str(tmp_path / "tiny"), "--json", str(target))
    assert "frames from the caller to UNet.forward: " in capsys.readouterr().out
    path = json.loads(target.read_text())
    assert path["stack"][1].startswith("pipeline/resolver.py")
    assert path["frames"] == len(path["stack"]) <= 8
    assert path["files"] == len(path["by_file"]) > 5
    assert path["lines"]["total"]["files"] == sum(row["files"] for row in path["lines"].values()) / 2


def test_a_version_that_cannot_be_run(monkeypatch) -> None:
    with pytest.raises(SystemExit, match="failed: exit code 1"):
        run(monkeypatch, "compare_versions.py", "false", "--sizes", "8", "--repeats", "1")


@pytest.mark.parametrize(("blocks", "channels", "growth"), [(3, 0, 0), (6, 0, 0), (0, 6, 3), (3, 2, 5)])
def test_a_larger_encoder_gives_the_same_image(
    resolver, tmp_path: Path, monkeypatch, blocks: int, channels: int, growth: int
) -> None:
    resolver.save_pretrained(tmp_path / "tiny")
    before = resolver.config.model.encoder
    sizes = [before.blocks + blocks, before.channels + channels, before.growth + growth]
    options = zip(("--blocks", "--channels", "--growth"), map(str, sizes), strict=True)
    run(monkeypatch, "grow.py", str(tmp_path / "tiny"), str(tmp_path / "large"), *itertools.chain(*options))
    large = SuperResolver.from_pretrained(tmp_path / "large")
    after = large.config.model.encoder
    assert [after.blocks, after.channels, after.growth] == sizes
    lr = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    results = [model.upscale_tensor(lr, seeds=0, steps=2) for model in (resolver, large)]
    assert (results[0] - results[1]).abs().max() < 1e-4
