"""A tile is an image: the same result for any division and batch; memory, NaN, consistency, ensemble."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_diffsr.errors import CancelledError, DeviceMemoryError, NumericalError
from sam_diffsr.pipeline import ResolverConfig, SuperResolver, tiles
from sam_diffsr.pipeline.checkpoint import available_models
from sam_diffsr.pipeline.settings import resolve_settings
from sam_diffsr.resize import imresize

WAYS: list[dict[str, Any]] = [
    {},
    {"fidelity": 0.5},
    {"fidelity": 0},
    {"fidelity": 1},
    {"sampler": "ddpm", "steps": 3, "start": 20},
]


@pytest.fixture(scope="module", params=available_models())
def bundled(request: pytest.FixtureRequest) -> SuperResolver:
    return SuperResolver.from_pretrained(request.param, device="cpu")


def pattern(height: int, width: int) -> Tensor:
    """Smooth colours, stripes and hard edges: easy, hard and in between."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    smooth = torch.stack([x / width, y / height, 0.5 + 0.5 * torch.sin(x * y / 300)])
    stripes = ((x + y) // 2 % 2).float().expand(3, -1, -1)
    return torch.where((x > width // 2) & (y > height // 3), stripes, smooth)[None].float()


# Tiles


@pytest.mark.parametrize("way", WAYS)
def test_tiles_of_the_bundled_model_cannot_be_told_from_the_whole(bundled: SuperResolver, way: Any) -> None:
    lr = pattern(80, 90)
    whole = bundled.upscale_tensor(lr, seeds=[3], tile=0, **way)
    for tile, batch in ((17, 1), (30, 3)):
        tiled = bundled.upscale_tensor(lr, seeds=[3], tile=tile, batch_size=batch, **way)
        assert float((tiled - whole).abs().max()) < 0.3 / 255
    narrow = bundled.upscale_tensor(lr, seeds=[3], tile=17, halo=1, **way)
    assert float((narrow - whole).abs().max()) > 0.3 / 255


def test_a_full_halo_changes_nothing(resolver: SuperResolver) -> None:
    lr = torch.rand(2, 3, 29, 33)
    model = resolver.config.model
    halo = model.encoder.receptive_field + -(-model.denoiser.receptive_field // 4)
    for way in WAYS:
        whole = resolver.upscale_tensor(lr, seeds=[1, 2], tile=0, **way)
        tiled = resolver.upscale_tensor(lr, seeds=[1, 2], tile=4, halo=halo, **way)
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"tile": 1}, {"tile": 1, "halo": 0}, {"halo": 0}, {"tile": 2, "halo": 500}, {"tile": 5}]
)
def test_odd_tiles_and_halos_give_the_exact_size(resolver: SuperResolver, options: Any) -> None:
    for height, width in ((1, 1), (9, 7), (3, 40)):
        result = resolver.upscale_tensor(torch.rand(1, 3, height, width), seeds=[0], **options)
        assert result.shape == (1, 3, 4 * height, 4 * width)


def test_a_share_of_the_encoders_image_is_a_weighted_mean(resolver: SuperResolver) -> None:
    def result(**changes: Any) -> Tensor:
        model = copy.copy(resolver)
        sampling = dataclasses.replace(resolver.config.sampling, **changes)
        model.config = dataclasses.replace(resolver.config, sampling=sampling)
        return model.upscale_tensor(lr, seeds=[1])

    lr = torch.rand(1, 3, 12, 9)
    encoder, sampled = result(steps=0), result()
    assert not torch.equal(encoder, sampled)
    for share in (0, 0.25, 1):
        expected = share * encoder + (1 - share) * sampled
        torch.testing.assert_close(result(encoder_share=share), expected, atol=1e-6, rtol=0)


# Memory


class Scarce:
    """Lets a network run out of memory in windows of more than ``limit`` output pixels per side."""

    def __init__(self, limit: int) -> None:
        self.limit, self.calls, self.failures = limit, 0, 0

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.calls += 1
        if max(args[0].shape[-2:]) > self.limit or len(args[0]) > 1:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


def test_out_of_memory_means_fewer_windows_then_smaller_tiles(
    resolver: SuperResolver, caplog: pytest.LogCaptureFixture
) -> None:
    lr = torch.rand(2, 3, 48, 44)
    expected = resolver.upscale_tensor(lr, seeds=[0, 1], steps=1)
    scarce = Scarce(130)
    resolver.model.denoiser.register_forward_pre_hook(scarce)
    seen: list[tuple[int, int]] = []
    result = resolver.upscale_tensor(
        *(lr,),
        seeds=[0, 1],
        steps=1,
        tile=0,
        halo=8,
        batch_size=2,
        callback=lambda step, total, preview: seen.append((step, total)),
    )
    assert scarce.failures == 2  # two images together, then one of them
    assert "out of memory; going on with tiles of 30 x 32 input pixels" in caplog.text
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)
    assert seen == [(step, 8) for step in range(1, 9)]


def test_finished_tiles_are_not_computed_again(resolver: SuperResolver) -> None:
    lr = torch.rand(1, 3, 20, 200)
    expected = resolver.upscale_tensor(lr, seeds=[0], steps=1, tile=0)
    calls: list[int] = []

    def third_time(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        calls.append(args[0].shape[-1])
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    resolver.model.denoiser.register_forward_pre_hook(third_time)
    result = resolver.upscale_tensor(lr, seeds=[0], steps=1, tile=20, halo=8, batch_size=1)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)
    first, rest = calls[:3], calls[3:]
    assert len(set(first)) == len(set(rest)) == 1
    assert max(rest) < first[0]
    assert len(rest) == 4 * (10 - 2)  # ten tiles, of which two are finished


def test_no_memory_at_all_is_an_error(resolver: SuperResolver) -> None:
    resolver.model.denoiser.register_forward_pre_hook(Scarce(4))
    with pytest.raises(DeviceMemoryError, match=r"even with the smallest tile \(CUDA out of memory\. Tried"):
        resolver.upscale_tensor(torch.rand(1, 3, 40, 40), seeds=[0])


def test_other_errors_are_not_taken_for_too_little_memory(resolver: SuperResolver) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("something else")

    resolver.model.denoiser.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        resolver.upscale_tensor(torch.rand(1, 3, 40, 40), seeds=[0])

    def cancel(step: int, total: int, preview: object) -> None:
        raise MemoryError("out of memory")

    resolver.model.denoiser._forward_pre_hooks.clear()
    with pytest.raises(CancelledError, match="the callback raised MemoryError at step 1 of 2"):
        resolver.upscale_tensor(torch.rand(1, 3, 40, 40), seeds=[0], callback=cancel)


def test_max_memory_makes_tiles_and_nearly_the_same_image(
    resolver: SuperResolver, caplog: pytest.LogCaptureFixture
) -> None:
    lr = torch.rand(1, 3, 150, 60)
    whole = resolver.upscale_tensor(lr, seeds=[0], start=6, sampler="ddim")
    needed = tiles.window_bytes(resolver.config, 100, 60, itemsize=4)
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        tiled = resolver.upscale_tensor(lr, seeds=[0], start=6, sampler="ddim", max_memory=needed)
    assert "tiles of" in caplog.text
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)
    with pytest.raises(
        DeviceMemoryError,
        match=r"max_memory is 0\.000954 MB, but the smallest tile needs about \d+ MB; allow more",
    ):
        resolver.upscale_tensor(lr, seeds=[0], max_memory=1000)


def test_auto_takes_the_largest_tile_that_fits_into_half_of_the_free_memory(
    resolver: SuperResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, parameter = resolver.config, next(resolver.model.parameters())
    settings = resolve_settings(config, halo=16)

    def largest_side() -> int:
        parts = tiles.divide(config, settings, 2048 + 32, 1024 + 32, parameter=parameter).tiles()
        return len(parts[1].columns)

    for wanted in (16, 64, 128):
        side = wanted + 32
        free = 2 * tiles.window_bytes(config, side, side, itemsize=4)
        monkeypatch.setattr(tiles, "free_memory", lambda device, free=free: free)
        assert largest_side() == wanted
    monkeypatch.setattr(tiles, "free_memory", lambda device: 0)
    assert largest_side() == 16


# Numbers


def test_nan_and_infinity_are_errors(resolver: SuperResolver) -> None:
    for number in (float("nan"), float("inf")):  # infinity would be clipped and hide
        with torch.no_grad():
            resolver.model.denoiser.final_conv.get_parameter("bias").fill_(number)
        with pytest.raises(NumericalError, match=r"produced NaN or infinity in float32; check the weights"):
            resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[0])
    with torch.no_grad():
        resolver.model.encoder.conv_first.get_parameter("bias").fill_(float("inf"))
    with pytest.raises(NumericalError, match=r"produced NaN or infinity"):
        resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[0], steps=0)


def test_a_narrow_type_that_overflows_is_tried_again_in_float32(model: Any, config: ResolverConfig) -> None:
    resolver = SuperResolver(model, config, device="cpu", dtype="bf16")
    steps: list[int] = []

    def overflow(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return output * float("inf") if output.dtype == torch.bfloat16 else None

    hook = resolver.model.denoiser.register_forward_hook(overflow)
    lr = torch.rand(1, 3, 5, 5)
    with pytest.warns(RuntimeWarning, match=r"infinity in bfloat16; .*computing again in float32"):
        result = resolver.upscale_tensor(
            lr, seeds=[2], callback=lambda step, total, preview: steps.append(step)
        )
    hook.remove()
    assert steps == [1, 2, 1, 2]
    assert next(resolver.model.parameters()).dtype == torch.bfloat16
    wide = SuperResolver(model.float(), config, device="cpu").upscale_tensor(lr, seeds=[2])
    torch.testing.assert_close(result, wide)


# Consistency and ensemble


def test_consistent_results_reduced_again_are_the_input(resolver: SuperResolver) -> None:
    lr = pattern(40, 30) * 0.8 + 0.1
    held = SuperResolver(
        resolver.model, dataclasses.replace(resolver.config, degradation="bicubic"), device="cpu"
    )
    errors = [
        float((imresize(each.upscale_tensor(lr, seeds=[0], start=6), 0.25) - lr).abs().mean())
        for each in (resolver, held)
    ]
    assert errors[1] < 0.06 * errors[0]  # one back-projection: 0.094, three: 0.052


@pytest.mark.parametrize("name", ["small", "photo", "base"])
def test_flat_colours_keep_their_mean_and_have_no_border(name: str) -> None:
    bundled = SuperResolver.from_pretrained(name, device="cpu")
    for colour in ((0, 0, 1), (0.5, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1), (0.2, 0.7, 0.4)):
        lr = torch.tensor(colour, dtype=torch.float32)[None, :, None, None].expand(1, 3, 20, 20)
        error = (bundled.upscale_tensor(lr, seeds=[0]) - lr[..., :1, :1])[0] * 255
        assert float(error.mean((1, 2)).abs().max()) <= 1
        border = max(float(edge.abs().max()) for edge in (error[:, 0], error[:, -1], error[..., 0]))
        assert border <= float(error[:, 8:-8, 8:-8].abs().max()) + 2
        if name == "small":
            plain = bundled.upscale_tensor(lr, seeds=[0], steps=0) - lr[..., :1, :1]
            assert float(plain.abs().max()) <= 1 / 255


def test_an_ensemble_is_the_mean_of_turned_and_mirrored_results(resolver: SuperResolver) -> None:
    lr = torch.rand(1, 3, 12, 8)
    expected = torch.zeros(1, 3, 48, 32)
    for quarters in range(4):
        for mirrored in (False, True):
            turned = (lr.flip(-1) if mirrored else lr).rot90(quarters, (-2, -1))
            back = resolver.upscale_tensor(turned, seeds=[0], steps=0).rot90(-quarters, (-2, -1))
            expected += (back.flip(-1) if mirrored else back) / 8
    seen: list[int] = []
    result = resolver.upscale_tensor(
        lr, seeds=[0], steps=0, ensemble=True, callback=lambda step, total, preview: seen.append(total)
    )
    torch.testing.assert_close(result, expected)
    assert seen == [8] * 8
    turned = resolver.upscale_tensor(lr.rot90(1, (-2, -1)), seeds=[0], steps=0, ensemble=True)
    torch.testing.assert_close(turned, expected.rot90(1, (-2, -1)))


def test_an_ensemble_of_samples_does_not_depend_on_tiles(resolver: SuperResolver) -> None:
    lr = torch.rand(1, 3, 40, 32)
    whole = resolver.upscale_tensor(lr, seeds=[0], start=30, ensemble=True, tile=0)
    tiled = resolver.upscale_tensor(lr, seeds=[0], start=30, ensemble=True, tile=8, halo=24)
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


# The caller's torch state


@pytest.fixture
def torch_state() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("torch_state")
def test_the_callers_torch_state_neither_changes_a_result_nor_is_changed() -> None:
    lr = torch.rand(1, 3, 9, 7)

    def result() -> Tensor:
        return SuperResolver.from_pretrained(device="cpu").upscale_tensor(
            lr, seeds=[0], fidelity=0.5, wrap=True
        )

    expected = result()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        assert torch.equal(result(), expected)
        assert torch.get_default_dtype() == dtype
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    assert torch.equal(result(), expected)
    assert torch.empty(1).device.type == "meta"
    torch.set_default_device(None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(result(), expected)
        assert torch.is_autocast_enabled("cpu")
    with torch.enable_grad():
        assert not result().requires_grad
        assert torch.is_grad_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.equal(result(), expected)
    assert torch.are_deterministic_algorithms_enabled()
