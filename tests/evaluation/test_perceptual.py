"""LPIPS and FID through their libraries' own code, with random weights: the trained ones are a download."""

from __future__ import annotations

import builtins
import warnings
from typing import Any

import pytest
import torch

from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError, ModelLoadError
from sam_diffsr.evaluation import perceptual
from sam_diffsr.evaluation.perceptual import frechet_distance, inception_features, lpips_distance

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def image(seed: int = 0, *, size: tuple[int, int] = (40, 36)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, *size), generator=generator).to(torch.uint8)


def test_lpips_gets_images_in_the_range_that_it_expects() -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    distance = lpips_distance(network=network)
    first, second = image(0), image(1)
    assert distance(first, first) == pytest.approx(0, abs=1e-6)
    with torch.inference_mode():
        expected = network(first.float() / 127.5 - 1, second.float() / 127.5 - 1).item()
    assert distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert distance(first, second) > 1e-4
    with pytest.raises(ImageError, match="LPIPS needs at least 31x31 pixels inside the border, got 36x30"):
        distance(image(size=(30, 36)), image(size=(30, 36)))


def test_features_are_those_of_one_image() -> None:
    class Extractor(torch.nn.Module):
        """As torch-fidelity's: uint8 in, a tuple of ``(B, D)`` out."""

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.dtype == torch.uint8
            return (x.double().mean(dim=(2, 3)),)

    vector = inception_features(network=Extractor())(image())
    assert vector.shape == (3,)
    assert vector.dtype == torch.float32
    assert torch.allclose(vector, image()[0].float().mean(dim=(1, 2)))


@pytest.mark.parametrize(("first", "second", "width"), [(40, 30, 8), (7, 9, 32)])
def test_frechet_distance_is_that_of_torch_fidelity(first, second, width) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    a = torch.randn(first, width).double()
    b = 1.3 * torch.randn(second, width).double() + 0.2
    statistics = [metric.fid_features_to_statistics(rows) for rows in (a, b)]
    expected = metric.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(list(a), list(b)) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_known_gaussians() -> None:
    rows = torch.randn(50, 4).double()
    assert frechet_distance(list(rows), list(rows)) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([3.0, 0, 0, 4.0]).double()
    assert frechet_distance(list(rows), list(rows + shift)) == pytest.approx(25)
    assert frechet_distance(list(rows), list(2 * rows)) == pytest.approx(
        rows.mean(0).square().sum().item() + rows.var(dim=0).sum().item()
    )


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ArgumentError, match="at least 2 images, got 1 and 2; leave it out"):
        frechet_distance([torch.zeros(3)], [torch.zeros(3)] * 2)


@pytest.mark.parametrize(
    ("build", "package", "file"),
    [
        (lpips_distance, "lpips", r"alexnet-owt-7be5be79\.pth"),
        (inception_features, "torch_fidelity", INCEPTION),
    ],
)
def test_weights_that_cannot_be_had_are_explained(build, package, file, tmp_path, monkeypatch) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ModelLoadError, match=rf"needs weights that are not part of any package, and .*{file}"
    ):
        build()
    assert list(tmp_path.rglob("*.pth")) == []


def test_weights_that_hold_code_are_refused_before_a_library_reads_them(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch_fidelity")

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / INCEPTION
    path.parent.mkdir(parents=True)
    torch.save({"fc.weight": Trap()}, path)
    with pytest.raises(ModelLoadError, match="FID needs weights"):
        inception_features()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("build", "package"), [(lpips_distance, "lpips"), (inception_features, "torch_fidelity")]
)
def test_a_missing_package_is_named_with_its_extra(build, package, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sam-diffsr\[eval\]'"):
        build()


def test_the_address_of_the_backbone_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models")
    assert models.AlexNet_Weights.IMAGENET1K_V1.url == perceptual._ALEXNET_URL
