"""Export to ONNX: files that give what torch gives, and an image that is upscaled without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sam_diffsr.errors import MissingDependencyError, NumericalError, OutputError
from sam_diffsr.pipeline import SuperResolver
from sam_diffsr.pipeline import onnx as exporter
from sam_diffsr.resize import imresize

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "08_onnx_upscale.py"
WITHOUT_TORCH = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "sam_diffsr"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx") / "new"
    assert SuperResolver.from_pretrained(device="cpu").export_onnx(folder) < 1e-4
    return folder


@pytest.mark.slow
def test_the_files_name_opset_sizes_and_everything_a_loop_needs(exported: Path):
    onnx = pytest.importorskip("onnx")
    assert {path.name for path in exported.iterdir()} == {"encoder.onnx", "denoiser.onnx"}
    resolver = SuperResolver.from_pretrained(device="cpu")
    for path in exported.iterdir():
        file = onnx.load(path)
        assert file.opset_import[0].version == exporter.OPSET
        for tensor in file.graph.input:
            dims = tensor.type.tensor_type.shape.dim
            assert all(dim.dim_param for index, dim in enumerate(dims) if index != 1)
        (metadata,) = (json.loads(entry.value) for entry in file.metadata_props if entry.key == "sam_diffsr")
        assert metadata["model"]["scale"] == 4
        assert metadata["degradation"] == resolver.config.degradation
        assert metadata["sampling"]["steps"] == resolver.config.sampling.steps
        np.testing.assert_allclose(metadata["alpha_bars"], resolver.schedule.alphas_cumprod, rtol=1e-6)


@pytest.mark.slow
def test_an_image_is_upscaled_without_torch(exported: Path, tmp_path: Path):
    source = tmp_path / "odd.png"
    Image.open(EXAMPLE.parent / "chelsea_lr.png").crop((0, 0, 37, 29)).save(source)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLE), str(exported), str(source)]
    subprocess.run([*command, str(tmp_path / "large.png")], check=True, timeout=300)
    large = np.asarray(Image.open(tmp_path / "large.png"), np.float32)
    expected = np.asarray(SuperResolver.from_pretrained(device="cpu").upscale(source), np.float32)
    assert large.shape == expected.shape == (4 * 29, 4 * 37, 3)
    assert 10 * np.log10(255**2 / np.square(large - expected).mean()) > 40  # other noise


@pytest.mark.slow
def test_a_result_of_a_clean_model_is_held_to_its_input(tmp_path: Path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    SuperResolver.from_pretrained("small", device="cpu").export_onnx(tmp_path / "small")
    source, large = EXAMPLE.parent / "chelsea_lr.png", tmp_path / "large.png"
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLE), str(tmp_path / "small"), str(source)]
    subprocess.run([*command, str(large)], check=True, timeout=300)
    again = imresize(to_tensor(large), 0.25)
    assert float((again - to_tensor(source)).abs().mean()) * 255 < 0.1  # one back-projection leaves 0.14


def to_tensor(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path), np.float32) / 255).permute(2, 0, 1)[None]


@pytest.mark.slow
def test_float16_halves_the_files(resolver: SuperResolver, tmp_path: Path):
    pytest.importorskip("onnxscript")
    assert resolver.export_onnx(tmp_path / "half", half=True) < 0.05
    assert next(resolver.model.parameters()).dtype.itemsize == 4


@pytest.mark.slow
def test_a_difference_is_an_error_and_leaves_nothing(
    resolver: SuperResolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporter, "_TOLERANCE", dict.fromkeys(exporter._TOLERANCE, 0.0))
    with pytest.raises(NumericalError, match=r"encoder\.onnx differs from torch by"):
        resolver.export_onnx(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(resolver: SuperResolver, tmp_path: Path):
    pytest.importorskip("onnxscript")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the ONNX files '.*file.*': .*choose another folder"):
        resolver.export_onnx(tmp_path / "file")


def test_a_missing_package_names_the_extra(
    resolver: SuperResolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sam-diffsr\[onnx\]'"):
        resolver.export_onnx(tmp_path)
