"""The main job, from images of any kind and size to exact enlargements that depend on image and seed only."""

from __future__ import annotations

import dataclasses
import gc
import logging
import random
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.diffusion import image_to_residual, q_sample, residual_to_image
from sam_diffsr.diffusion.noise import ImageNoise
from sam_diffsr.diffusion.samplers import sample_ddim
from sam_diffsr.errors import (
    ArgumentError,
    CancelledError,
    DeviceMemoryError,
    ImageError,
    ImageTooLargeError,
    NumericalError,
)
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline import (
    NormalizationConfig,
    ResolverConfig,
    SamplingConfig,
    SuperResolver,
    canvas,
    run,
)
from sam_diffsr.pipeline import resolver as resolver_module
from sam_diffsr.pipeline.planning import MemoryPlan
from sam_diffsr.pipeline.prepare import pad_to_multiple
from sam_diffsr.resize import imresize


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2), (33, 50)])
def test_any_size_gives_exactly_scale_times_it(resolver, size):
    assert resolver.upscale(photo(*size), steps=1).shape == (size[0] * 4, size[1] * 4, 3)


@pytest.mark.parametrize("scale", [2, 8])
def test_other_scales_and_deeper_networks(scale):
    model = ModelConfig(
        scale=scale,
        encoder=EncoderConfig(blocks=2, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=4, multipliers=(1, 2, 2, 2)),
    )
    config = ResolverConfig(model=model, sampling=SamplingConfig(sampler="dpmpp_2m", steps=1))
    resolver = SuperResolver(build_model(model), config, device="cpu")
    for size in [(1, 1), (1, 7), (9, 10)]:
        assert resolver.upscale(photo(*size)).shape == (size[0] * scale, size[1] * scale, 3)


# Kinds


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_images_come_back_as_pil_images(resolver, mode):
    source = Image.fromarray(photo(3, 4)).convert("L").convert("I").convert("I;16")
    if mode != "I;16":
        source = Image.fromarray(photo(3, 4, 4 if mode.endswith("A") else 3)).convert(mode)
    result = resolver.upscale(source, steps=1)
    assert isinstance(result, Image.Image)
    assert result.size == (16, 12)
    assert result.mode == {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_come_back_as_arrays_of_their_type(resolver, dtype, channels):
    source = photo(3, 4, channels)
    source = (source / 255).astype(dtype) if dtype == "float32" else source.astype(dtype)
    result = resolver.upscale(source, steps=1)
    assert isinstance(result, np.ndarray)
    assert result.dtype == source.dtype
    assert result.shape == (12, 16, *source.shape[2:])


def test_a_path_gives_a_pil_image_that_keeps_its_metadata(resolver, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photo"  # orientation: rotated; description
    path = tmp_path / "grüße.jpg"
    Image.fromarray(photo(4, 6)).save(path, exif=exif, icc_profile=b"profile")
    for source in (path, str(path)):
        result = resolver.upscale(source, steps=1)
        assert result.size == (16, 24)
        assert result.getexif()[0x010E] == "a photo"
        assert 0x0112 not in result.getexif()
        assert result.info["icc_profile"] == b"profile"


def test_the_transparency_of_a_pil_image_is_kept(resolver):
    rgba = photo(3, 4, 4)
    rgba[..., 3] = 77
    opaque = resolver.upscale(Image.fromarray(rgba).convert("RGB"))
    result = np.asarray(resolver.upscale(Image.fromarray(rgba)))
    assert (result[..., 3] == 77).all()
    np.testing.assert_array_equal(result[..., :3], np.asarray(opaque))


def test_outscale_resizes_the_result(resolver):
    source = photo(6, 5).astype(np.float32) / 255
    full = torch.from_numpy(resolver.upscale(source)).permute(2, 0, 1)
    result = resolver.upscale(source, outscale=1.5)
    expected = imresize(full, size=(9, 8)).clamp(0, 1).permute(1, 2, 0)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-6)
    assert resolver.upscale(source, outscale=4).shape == (24, 20, 3)
    assert resolver.upscale(source, outscale=6).shape == (36, 30, 3)


# Lists, batches, seeds


def test_a_list_gives_a_list_of_the_same_kinds(resolver, tmp_path: Path):
    Image.fromarray(photo(3, 4)).save(tmp_path / "a.png")
    results = resolver.upscale(
        [photo(3, 4), Image.fromarray(photo(2, 2)), tmp_path / "a.png", photo(3, 4, 0)], batch_size=2, steps=1
    )
    assert [type(result).__name__ for result in results] == ["ndarray", "Image", "Image", "ndarray"]
    assert [np.asarray(result).shape for result in results] == [(12, 16, 3), (8, 8, 3), (12, 16, 3), (12, 16)]
    assert resolver.upscale([]) == []
    assert len(resolver.upscale((photo(1, 1),), steps=1)) == 1


def test_a_list_is_decoded_and_encoded_beside_the_network(resolver, tmp_path: Path, monkeypatch):
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(photo(3, 3 + index)).save(paths[-1])
    expected = [np.asarray(resolver.upscale(path, seed=index)) for index, path in enumerate(paths)]
    decoded, threads = [], set()
    decode, encode = resolver_module.decode_input, resolver_module.encode_output
    second = threading.Event()

    def decode_input(image, **options):
        decoded.append(int(image.stem))
        if len(decoded) == 2:
            second.set()
        return decode(image, **options)

    def encode_output(*args, **options):
        threads.add(threading.get_ident())
        return encode(*args, **options)

    def watch(module, args):
        assert second.wait(20), "the second image is decoded while the first one is computed"

    resolver.model.encoder.register_forward_pre_hook(watch)
    monkeypatch.setattr(resolver_module, "decode_input", decode_input)
    monkeypatch.setattr(resolver_module, "encode_output", encode_output)
    results = resolver.upscale(paths, batch_size=1)
    for result, single in zip(results, expected, strict=True):
        assert (np.asarray(result) == single).all()
    assert decoded == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


def test_an_orientation_after_the_pixels_is_seen_in_time(resolver, tmp_path: Path):
    """A PNG may have its EXIF at the end; the header then tells another size than the pixels have."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.fromarray(photo(3, 5)).save(path, exif=exif)
    data = path.read_bytes()
    first = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[first : first + 4], "big")
    rest = data[:first] + data[first + length :]
    end = rest.index(b"IEND") - 4
    path.write_bytes(rest[:end] + data[first : first + length] + rest[end:])
    seen: list[tuple[int, int]] = []
    results = resolver.upscale(
        [photo(3, 5), path], batch_size=2, callback=lambda step, total, preview: seen.append((step, total))
    )
    assert results[1].size == (12, 20)
    assert (np.asarray(results[1]) == np.asarray(resolver.upscale(path, seed=1))).all()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_damaged_pixels_in_a_list_are_named(resolver, tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(photo(40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"^image 2 of the list: the pixels of .* cannot be decoded"):
        resolver.upscale([photo(2, 2), photo(2, 3), path], steps=1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_a_batch_of_four_equals_four_singles(resolver, sampler):
    images = [photo(7, 6, seed=seed).astype(np.float32) / 255 for seed in range(4)]
    together = resolver.upscale(images, seed=10, batch_size=4, sampler=sampler)
    for index, image in enumerate(images):
        single = resolver.upscale(image, seed=10 + index, sampler=sampler)
        np.testing.assert_allclose(together[index], single, atol=1e-5)
    given = resolver.upscale(images[::-1], seed=[13, 12, 11, 10], batch_size=3, sampler=sampler)
    for left, right in zip(given, together[::-1], strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_the_same_seed_is_bit_identical_and_another_is_not(resolver):
    lr = torch.rand(1, 3, 9, 7)
    first = resolver.upscale_tensor(lr, seeds=[4])
    assert torch.equal(first, resolver.upscale_tensor(lr, seeds=[4]))
    assert not torch.equal(first, resolver.upscale_tensor(lr, seeds=[5]))
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_global_random_numbers_and_the_input_are_left_alone(resolver):
    lr, array = torch.rand(1, 3, 5, 5), photo(5, 5)
    kept, copied = lr.clone(), array.copy()
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    resolver.upscale_tensor(lr, seeds=[0])
    resolver.upscale(array)
    assert random.getstate() == states[0]
    np.testing.assert_equal(np.random.get_state(legacy=False), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(lr, kept)
    assert (array == copied).all()


def test_results_can_take_part_in_training(resolver):
    result = resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[0], steps=1)
    weight = torch.ones(1, requires_grad=True)
    (result * weight).sum().backward()
    assert weight.grad is not None
    assert not result.is_inference()


# The method


@pytest.mark.parametrize("start", [None, 30])
@pytest.mark.parametrize("levels", [255, 256])
def test_it_is_the_published_procedure(model, config, start, levels):
    config = dataclasses.replace(config, normalization=NormalizationConfig(lr_up_levels=levels))
    resolver = SuperResolver(model, config, device="cpu")
    lr, schedule = torch.rand(1, 3, 6, 5), resolver.schedule
    with torch.inference_mode():
        padded = pad_to_multiple(lr, config.model)
        condition = model.encode(padded)
        noise = ImageNoise([8])
        xt = noise(torch.empty(1, 3, 24, 20))
        lr_up = imresize(lr * (255 / levels), 4) * 2 - 1
        if start is not None:
            x0 = image_to_residual(model.encoder_image(condition) * 2 - 1, lr_up, residual_scale=2.0)
            xt = q_sample(x0, torch.tensor([start]), xt, schedule)
        x0 = sample_ddim(lambda x, t: model(x, t, condition), xt, schedule, steps=3, noise=noise, start=start)
        expected = (residual_to_image(x0, lr_up, residual_scale=2.0) + 1).div(2).clamp(0, 1)
    result = resolver.upscale_tensor(
        lr, seeds=[8], sampler="ddim", steps=3, start="noise" if start is None else start
    )
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_a_little_noise_stays_near_the_encoders_image(model, config):
    resolver = SuperResolver(model, config, device="cpu")
    lr = torch.rand(1, 3, 7, 9)
    with torch.inference_mode():
        image = model.encoder_image(model.encode(pad_to_multiple(lr, config.model)))[:, :, :28, :36]
        up = imresize(lr, 4)
        reachable = (up + (image - up).clamp(-0.25, 0.25)).clamp(0, 1)  # a residual is clipped to one quarter
    result = resolver.upscale_tensor(lr, seeds=[0], start=0)
    assert float((result - reachable).abs().max()) < 0.05


# Tiles


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("start", ["noise", 50])
def test_tiles_with_a_full_halo_change_nothing(resolver, sampler, start):
    lr = torch.rand(1, 3, 29, 33)
    options = {"seeds": [1], "sampler": sampler, "start": start}
    whole = resolver.upscale_tensor(lr, tile=0, **options)
    overlap = -(-resolver.config.model.denoiser.receptive_field // 4)
    tiled = resolver.upscale_tensor(lr, tile=8, tile_overlap=overlap, **options)
    assert float((tiled - whole).abs().max()) < 1e-4


def test_tiles_with_the_default_halo_cannot_be_told_from_none(resolver):
    image = photo(30, 34)
    difference = resolver.upscale(image, tile=8).astype(int) - resolver.upscale(image, tile=0)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("encoder_tile", [(64, 64), None])
def test_the_default_halos_are_enough_for_the_bundled_model(monkeypatch: pytest.MonkeyPatch, encoder_tile):
    """Half a level of 255 at most on noise, which is harder than photographs, with the encoder in tiles."""
    bundled = SuperResolver.from_pretrained(device="cpu")
    lr = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    whole = bundled.upscale_tensor(lr, seeds=[0], tile=0)
    device = bundled.device
    plan = MemoryPlan(tile=(64, 64), encoder_tile=encoder_tile, canvas=device, store=device)
    monkeypatch.setattr(run, "plan_memory", lambda *args, **kwargs: plan)
    difference = (bundled.upscale_tensor(lr, seeds=[0]) - whole).abs()
    assert 0 < float(difference.max()) < 0.5 / 255
    narrow = (bundled.upscale_tensor(lr, seeds=[0], tile_overlap=2) - whole).abs()
    assert float(narrow.max()) > 0.5 / 255


def test_auto_says_what_it_took(resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    lr = torch.rand(1, 3, 100, 48)
    whole = resolver.upscale_tensor(lr, seeds=[0], steps=1)
    monkeypatch.setattr(run, "free_memory", lambda device: 80 * 2**20)
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        tiled = resolver.upscale_tensor(lr, seeds=[0], steps=1)
    assert "400 x 192 output pixels on cpu in tiles of " in caplog.text
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


class Scarce:
    """Lets a network run out of memory in windows of more than ``limit`` output pixels a side."""

    def __init__(self, limit: int) -> None:
        self.limit, self.failures = limit, 0

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if max(args[0].shape[-2:]) > self.limit:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


@pytest.mark.parametrize("start", ["noise", 50])
def test_running_out_of_memory_is_survived(resolver, caplog: pytest.LogCaptureFixture, start):
    lr = torch.rand(1, 3, 32, 28)
    whole = resolver.upscale_tensor(lr, seeds=[0], start=start)
    scarce = Scarce(100)
    resolver.model.denoiser.register_forward_pre_hook(scarce)
    with caplog.at_level(logging.WARNING, logger="sam_diffsr"):
        result = resolver.upscale_tensor(lr, seeds=[0], start=start, tile=0, tile_overlap=8)
    assert "out of memory on cpu with a tile of 128 x 112 output pixels; going on with 64 x 56" in caplog.text
    assert scarce.failures == 1 + 0  # 64 + 2 * 32 clipped at the borders fits from then on
    torch.testing.assert_close(result, whole, atol=1e-4, rtol=0)


def test_no_memory_at_all_is_an_error(resolver):
    resolver.model.denoiser.register_forward_pre_hook(Scarce(4))
    with pytest.raises(DeviceMemoryError, match=r"out of memory on cpu even with tiles of 4 pixels"):
        resolver.upscale(photo(8, 8))


def test_no_memory_for_the_image_itself_is_an_error(resolver, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(canvas, "imresize", fail)
    with pytest.raises(
        DeviceMemoryError, match=r"not enough memory on cpu for an image of \(8, 9\) pixels .*99 bytes"
    ):
        resolver.upscale(photo(8, 9))


@pytest.mark.parametrize("start", ["noise", 50])
@pytest.mark.parametrize("encoder_tile", [(128, 112), (64, 64), None])
def test_wherever_the_condition_is_kept_the_result_is_the_same(resolver, monkeypatch, start, encoder_tile):
    lr = torch.rand(1, 3, 32, 28)
    whole = resolver.upscale_tensor(lr, seeds=[0], start=start)
    device = resolver.device
    plan = MemoryPlan(tile=(64, 64), encoder_tile=encoder_tile, canvas=device, store=device)
    monkeypatch.setattr(run, "plan_memory", lambda *args, **kwargs: plan)
    result = resolver.upscale_tensor(lr, seeds=[0], start=start)
    torch.testing.assert_close(result, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("start", ["noise", 50])
@pytest.mark.parametrize(("tile", "encoder_tile"), [(32, 32), (64, 32), (32, 160), (160, 32), (320, 320)])
def test_one_step_encodes_ahead_of_the_denoiser_and_forgets_behind(
    resolver, monkeypatch: pytest.MonkeyPatch, start, tile, encoder_tile
):
    """The same numbers from as many windows, without the features of the whole image."""
    lr = torch.rand(2, 3, 80, 14)
    rows_of_features: list[int] = []
    counts: list[int] = []

    def run_with(*, rolling: bool) -> torch.Tensor:
        device = resolver.device
        plan = MemoryPlan(
            tile=(tile, 56),
            encoder_tile=(encoder_tile, 56),
            canvas=device,
            store=device,
            rolling=rolling,
        )
        monkeypatch.setattr(run, "plan_memory", lambda *args, **kwargs: plan)
        calls = 0

        def encoding(*args: object) -> None:
            nonlocal calls
            calls += 1

        def denoising(*args: object) -> None:
            storages = [
                item.untyped_storage().nbytes()
                for item in gc.get_objects()
                if type(item) is torch.Tensor
                and item.ndim == 4
                and item.shape[0] == 2
                and item.shape[3] == 14
            ]
            rows_of_features.append(max(storages) // (4 * 2 * features * 14))

        features = 8 * len({*resolver.config.model.encoder.condition_indices, 2})
        hooks = [
            resolver.model.encoder.conv_first.register_forward_pre_hook(encoding),
            resolver.model.denoiser.register_forward_pre_hook(denoising),
        ]
        rows_of_features.clear()
        result = resolver.upscale_tensor(lr, seeds=[0, 1], steps=1, start=start, tile_overlap=4)
        for hook in hooks:
            hook.remove()
        counts.append(calls)
        return result

    whole = run_with(rolling=False)
    assert max(rows_of_features) == 80
    assert torch.equal(run_with(rolling=True), whole)
    assert counts[0] == counts[1]
    assert max(rows_of_features) <= min((2 * tile + encoder_tile + 7 * 16) // 4, 80)


@pytest.mark.parametrize("network", ["encoder", "denoiser"])
def test_running_out_of_memory_is_survived_with_features_that_roll(
    resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, network
):
    lr, device = torch.rand(1, 3, 48, 16), resolver.device
    whole = resolver.upscale_tensor(lr, seeds=[0], steps=1, start=20)
    plan = MemoryPlan(tile=(64, 32), encoder_tile=(64, 32), canvas=device, store=device, rolling=True)
    monkeypatch.setattr(run, "plan_memory", lambda *args, **kwargs: plan)
    calls = 0

    def scarce(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls in (4, 6):  # in the middle of a row of tiles, too
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    module = resolver.model.denoiser if network == "denoiser" else resolver.model.encoder.conv_first
    module.register_forward_pre_hook(scarce)
    result = resolver.upscale_tensor(lr, seeds=[0], steps=1, start=20)
    assert caplog.text.count("out of memory on cpu with a tile") == 2
    torch.testing.assert_close(result, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("network", ["encoder", "denoiser"])
def test_no_memory_in_the_middle_is_an_error_of_its_own_network(resolver, monkeypatch, network):
    device, calls = resolver.device, 0
    plan = MemoryPlan(tile=(64, 48), encoder_tile=(32, 48), canvas=device, store=device, rolling=True)
    monkeypatch.setattr(run, "plan_memory", lambda *args, **kwargs: plan)
    denoised: list[int] = []

    def scarce(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls > (17 if network == "encoder" else 3):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    resolver.model.denoiser.register_forward_pre_hook(lambda *args: denoised.append(1))
    module = resolver.model.denoiser if network == "denoiser" else resolver.model.encoder.conv_first
    module.register_forward_pre_hook(scarce)
    halo = 64 if network == "encoder" else 32
    with pytest.raises(
        DeviceMemoryError, match=rf"out of memory on cpu even with tiles of \d pixels and a halo of {halo}"
    ):
        resolver.upscale_tensor(torch.rand(1, 3, 80, 24), seeds=[0], steps=1, start=20)
    assert denoised


# Numbers that are none


def test_nan_weights_are_an_error(resolver):
    with torch.no_grad():
        resolver.model.denoiser.final_conv.bias.fill_(float("nan"))
    with pytest.raises(
        NumericalError, match=r"produced NaN or infinity in float32; use dtype='fp32', and if that"
    ):
        resolver.upscale(photo(4, 4))


def test_an_infinity_that_clipping_would_hide_is_an_error(resolver):
    with torch.no_grad():
        resolver.model.denoiser.final_conv.bias.fill_(float("inf"))
    with pytest.raises(NumericalError, match="produced NaN or infinity"):
        resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[0])


def test_a_narrow_type_that_overflows_is_tried_again_in_float32(model, config):
    resolver = SuperResolver(model, config, device="cpu", dtype="bf16")
    steps: list[int] = []

    def overflow(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        return output * float("inf") if output.dtype == torch.bfloat16 else None

    resolver.model.denoiser.register_forward_hook(overflow)
    lr = torch.rand(1, 3, 5, 5)
    with pytest.warns(RuntimeWarning, match=r"infinity in bfloat16; .*computing this batch again in float32"):
        result = resolver.upscale_tensor(
            lr, seeds=[2], callback=lambda step, total, preview: steps.append(step)
        )
    assert steps == [1, 2, 1, 2]
    assert next(resolver.model.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(
        result, SuperResolver(model.float(), config, device="cpu").upscale_tensor(lr, seeds=[2])
    )


def test_a_narrow_type_is_near_the_wide_one(model, config):
    lr = torch.rand(1, 3, 6, 6)
    wide = SuperResolver(model, config, device="cpu").upscale_tensor(lr, seeds=[0], start=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow = SuperResolver(model, config, device="cpu", dtype="bf16").upscale_tensor(
            lr, seeds=[0], start=20
        )
    assert float((wide - narrow).abs().mean()) < 0.02


# Progress and cancelling


def test_the_callback_sees_all_steps_of_all_batches_and_a_preview(resolver):
    seen: list[tuple[int, int, tuple[int, ...]]] = []
    resolver.upscale(
        [photo(3, 4), photo(2, 2), photo(3, 4)],
        batch_size=2,
        steps=2,
        callback=lambda step, total, preview: seen.append((step, total, tuple(preview().shape))),
    )
    assert seen == [
        (1, 4, (2, 3, 12, 16)),
        (2, 4, (2, 3, 12, 16)),
        (3, 4, (1, 3, 8, 8)),
        (4, 4, (1, 3, 8, 8)),
    ]


def test_the_last_preview_is_the_result(resolver):
    previews: list[torch.Tensor] = []
    result = resolver.upscale_tensor(
        torch.rand(1, 3, 4, 4), seeds=[0], callback=lambda step, total, preview: previews.append(preview())
    )
    assert torch.equal(previews[-1], result)


def test_a_callback_can_stop_the_work_and_the_resolver_goes_on_working(resolver):
    calls: list[int] = []

    def stop(step: int, total: int, preview: object) -> bool:
        calls.append(step)
        return step < 1

    with pytest.raises(CancelledError, match=r"the callback stopped the work at step 1 of 2"):
        resolver.upscale(photo(4, 4), callback=stop)
    assert calls == [1]
    assert resolver.upscale(photo(4, 4)).shape == (16, 16, 3)


def test_stopped_work_leaves_no_tensor_behind(resolver):
    alive: list[weakref.ref[torch.Tensor]] = []
    resolver.model.denoiser.register_forward_hook(
        lambda module, args, output: alive.extend(weakref.ref(tensor) for tensor in (*args, output))
    )
    with pytest.raises(CancelledError):
        resolver.upscale(photo(4, 4), callback=lambda step, total, preview: False)
    gc.collect()
    assert len(alive) == 4
    assert all(reference() is None for reference in alive)


@pytest.mark.parametrize(
    ("sampler", "steps", "start", "callback", "canvases"),
    [
        *(("ddim", steps, start, False, 1) for steps in (1, 3) for start in ("noise", 20)),
        ("ddpm", 3, 20, False, 1),
        ("dpmpp_2m", 2, 20, False, 1),
        ("dpmpp_2m", 4, 20, False, 2),
        ("ddim", 2, 20, True, 2),
        ("ddim", 3, "noise", True, 3),
        ("dpmpp_2m", 4, 20, True, 3),
    ],
)
def test_sampling_in_tiles_holds_as_many_canvases_as_are_planned(
    resolver, monkeypatch: pytest.MonkeyPatch, sampler, steps, start, callback, canvases
):
    """Float32 tensors that are as large as the output while a window is denoised, and no other so large."""
    planned: list[int] = []
    plan_memory = run.plan_memory

    def plan(*args: Any, **kwargs: Any) -> MemoryPlan:
        planned.append(kwargs["canvases"])
        return plan_memory(*args, **kwargs)

    monkeypatch.setattr(run, "plan_memory", plan)
    whole, most = 4 * 3 * 256 * 32, 0

    def count(*args: object) -> None:
        nonlocal most
        storages = {
            item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
            for item in gc.get_objects()
            if type(item) is torch.Tensor and item.ndim == 4 and (item.shape[1], item.shape[3]) == (3, 32)
        }
        most = max(most, sum(size >= whole for size in storages.values()))

    resolver.model.denoiser.register_forward_pre_hook(count)
    resolver.upscale_tensor(
        *(torch.rand(1, 3, 64, 8),),
        seeds=[0],
        sampler=sampler,
        steps=steps,
        start=start,
        tile=16,
        callback=(lambda step, total, preview: True) if callback else None,
    )
    assert planned == [canvases]
    assert most == canvases


def test_a_bar_is_drawn_on_request_only(resolver, capsys):
    resolver.upscale(photo(2, 2))
    resolver.upscale_tensor(torch.rand(1, 3, 2, 2), seeds=[0])
    assert capsys.readouterr().err == ""
    resolver.upscale(photo(2, 2), progress=True)
    assert "100%" in capsys.readouterr().err


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 101}, ArgumentError, "steps must be"),
        ({"sampler": "euler"}, ArgumentError, "sampler must be"),
        ({"start": 100}, ArgumentError, "start must be"),
        ({"seed": -1}, ArgumentError, "seeds must be"),
        ({"seed": [1, 2]}, ArgumentError, "one integer or 1 of them"),
        ({"tile": -1}, ArgumentError, "tile must be"),
        ({"tile_overlap": -1}, ArgumentError, "tile_overlap must be"),
        ({"batch_size": 0}, ArgumentError, r"batch_size must be None or >= 1, got 0"),
        ({"outscale": 0}, ArgumentError, "outscale must be"),
        ({"max_pixels": 15}, ImageTooLargeError, "16"),
    ],
)
def test_arguments_out_of_range_are_refused_before_any_work(resolver, options, error, message):
    resolver.model.encoder.register_forward_pre_hook(lambda *args: pytest.fail("worked"))
    with pytest.raises(error, match=message):
        resolver.upscale(photo(4, 4), **options)


def test_images_that_are_none_are_refused(resolver, tmp_path: Path):
    with pytest.raises(ImageError, match="no such file"):
        resolver.upscale(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"^image 1 of the list: .*no such file"):
        resolver.upscale([photo(2, 2), tmp_path / "missing.png"])
    with pytest.raises(ImageError, match="tensors go to upscale_tensor"):
        resolver.upscale(torch.rand(1, 3, 4, 4))
    with pytest.raises(ImageError, match=r"expected a tensor \(B, 3, H, W\)"):
        resolver.upscale_tensor(torch.rand(3, 4, 4), seeds=[0])
    with pytest.raises(ArgumentError, match="seeds must be"):
        resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[-1])


def test_a_callback_stops_between_tiles_and_what_was_computed_is_let_go(resolver):
    """Before the first step is done, with the bicubic image as preview, and without anything kept."""
    seen: list[tuple[int, float]] = []
    lr = torch.rand(1, 3, 24, 24)

    def stop(step, total, preview):
        seen.append((step, float((preview() - imresize(lr, 4).clamp(0, 1)).abs().max())))
        return len(seen) < 3

    def large() -> int:
        gc.collect()
        tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
        return sum(item.numel() >= 3 * 96 * 96 for item in tensors)

    before = large()
    with pytest.raises(CancelledError, match=r"the callback stopped the work at step 0 of 2"):
        resolver.upscale_tensor(lr, seeds=[0], tile=8, callback=stop)
    assert [step for step, _ in seen] == [0, 0, 0]
    assert max(difference for _, difference in seen) < 1e-5
    assert large() == before


def test_a_limit_that_cannot_hold_one_tile_is_an_error(resolver):
    with pytest.raises(DeviceMemoryError, match=r"a limit of 1 MB cannot hold an image of 96 x 96 output"):
        resolver.upscale_tensor(torch.rand(1, 3, 24, 24), seeds=[0], max_memory=2**20)


@pytest.mark.parametrize("max_memory", [0, -1, 1.5, True, "2G"])
def test_a_limit_is_a_number_of_bytes(resolver, max_memory):
    with pytest.raises(ArgumentError, match="max_memory must be None or a number of bytes >= 1"):
        resolver.upscale(photo(4, 4), max_memory=max_memory)


def test_a_limit_makes_tiles_and_nearly_the_same_image(resolver, caplog: pytest.LogCaptureFixture):
    lr = torch.rand(1, 3, 150, 60)
    whole = resolver.upscale_tensor(lr, seeds=[0], start=6, sampler="ddim")
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        tiled = resolver.upscale_tensor(
            lr, seeds=[0], start=6, sampler="ddim", tile_overlap=8, max_memory=66 * 2**20
        )
    assert "output pixels on cpu in tiles of" in caplog.text
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)


def test_a_tile_below_the_networks_minimum_and_a_halo_wider_than_the_image(resolver):
    lr = torch.rand(1, 3, 9, 7)
    whole = resolver.upscale_tensor(lr, seeds=[0])
    for options in ({"tile": 1}, {"tile": 1, "tile_overlap": 0}, {"tile": 2, "tile_overlap": 500}):
        tiled = resolver.upscale_tensor(lr, seeds=[0], **options)
        assert tiled.shape == (1, 3, 36, 28)
        if options.get("tile_overlap") != 0:
            torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


def test_bfloat16_is_near_float32_from_the_encoders_image(model, config):
    lr = torch.rand(1, 3, 16, 16)
    options: dict[str, Any] = {"seeds": [0], "start": 6, "sampler": "ddim", "steps": 1}
    exact = SuperResolver(model, config, device="cpu").upscale_tensor(lr, **options)
    narrow = SuperResolver(model, config, device="cpu", dtype="bf16")
    assert model.encoder.conv_last.weight.dtype == torch.float32
    assert model.denoiser.final_conv.weight.dtype == torch.bfloat16
    error = (narrow.upscale_tensor(lr, **options) - exact).square().mean()
    assert -10 * torch.log10(error) > 50
