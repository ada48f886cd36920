"""The main job, from images of any kind and size to exact enlargements that depend on image and seed only."""

from __future__ import annotations

import dataclasses
import gc
import io
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

from sam_diffsr.diffusion import PositionNoise, image_to_residual, q_sample, residual_to_image, sample_ddim
from sam_diffsr.errors import (
    ArgumentError,
    CancelledError,
    ImageError,
    ImageTooLargeError,
)
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model, pad_to_fit
from sam_diffsr.pipeline import (
    NormalizationConfig,
    ResolverConfig,
    SamplingConfig,
    SuperResolver,
    images,
)
from sam_diffsr.pipeline import resolver as resolver_module
from sam_diffsr.resize import imresize


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_device_may_be_named_in_two_ways(model, config):
    resolver = SuperResolver(model, config, device="cpu:0")  # tensors call it cpu, and mps mps:0
    assert resolver.upscale_tensor(torch.rand(1, 3, 8, 8), steps=0).shape[-2:] == (32, 32)


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
    decode, encode = images.decode_image, images.encode_output
    second = threading.Event()

    def decode_image(image, **options):
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
    monkeypatch.setattr(images, "decode_image", decode_image)
    monkeypatch.setattr(images, "encode_output", encode_output)
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


@pytest.mark.parametrize(
    ("side", "options", "most"), [(16, {}, 8), (32, {}, 4), (64, {}, 1), (64, {"batch_size": 3}, 3)]
)
def test_small_images_of_a_list_go_together_on_a_cpu(resolver, monkeypatch, side, options, most):
    sizes = []

    def super_resolve(model, config, schedule, lr, *others, dtype):
        sizes.append(len(lr))
        return torch.zeros(len(lr), 3, 4 * side, 4 * side, dtype=dtype)

    monkeypatch.setattr(resolver_module, "super_resolve", super_resolve)
    results = resolver.upscale([photo(side, side)] * (most + 1), **options)
    assert len(results) == most + 1
    assert sizes == [most, 1]


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
        padded = pad_to_fit(lr, config.model)
        condition = model.encode(padded)
        noise = PositionNoise([8])
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
        image = model.encoder_image(model.encode(pad_to_fit(lr, config.model)))[:, :, :28, :36]
        up = imresize(lr, 4)
        reachable = (up + (image - up).clamp(-0.25, 0.25)).clamp(0, 1)  # a residual is clipped to one quarter
    result = resolver.upscale_tensor(lr, seeds=[0], start=0)
    assert float((result - reachable).abs().max()) < 0.05


# Floating types


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
        (2, 6, (2, 3, 12, 16)),
        (4, 6, (2, 3, 12, 16)),
        (5, 6, (1, 3, 8, 8)),
        (6, 6, (1, 3, 8, 8)),
    ]


def test_the_last_preview_is_the_result(resolver):
    sampling = dataclasses.replace(resolver.config.sampling, encoder_share=0.5)
    resolver = SuperResolver(
        resolver.model, dataclasses.replace(resolver.config, sampling=sampling), device="cpu"
    )
    previews: list[torch.Tensor] = []
    kept: list[Any] = []

    def look(step: int, total: int, preview: Any) -> None:
        previews.append(preview())
        kept.append(preview)

    result = resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[0], callback=look)
    assert torch.equal(previews[-1], result)
    assert torch.equal(kept[0](), result)  # after the run all tiles are finished


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
        ({"halo": -1}, ArgumentError, "halo must be"),
        ({"batch_size": 2.5}, ArgumentError, r"batch_size must be None or a whole number >= 1, got 2\.5"),
        ({"max_memory": 1.5}, ArgumentError, "max_memory must be None or a number of bytes"),
        *(({"outscale": value}, ArgumentError, "outscale must be") for value in (0, "2", True, float("inf"))),
        ({"max_pixels": 15}, ImageTooLargeError, "16"),
        ({"callback": 5}, ArgumentError, "callback must be None or a function, got 5"),
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
    with pytest.raises(ImageError, match=r"expected a float32 tensor \(B, 3, H, W\)"):
        resolver.upscale_tensor(torch.rand(3, 4, 4), seeds=[0])
    with pytest.raises(ArgumentError, match="seeds must be"):
        resolver.upscale_tensor(torch.rand(1, 3, 4, 4), seeds=[-1])


def test_a_callback_stops_in_the_middle_of_a_tile_and_nothing_stays_in_memory(resolver):
    """The preview has the tiles that are finished, the estimate of the one in work, and bicubic elsewhere."""
    lr = torch.rand(1, 3, 24, 24)
    whole = resolver.upscale_tensor(lr, seeds=[0], tile=8, halo=4, batch_size=1)
    previews: list[torch.Tensor] = []

    def stop(step, total, preview):
        previews.append(preview())
        return step < 3

    def large() -> int:
        gc.collect()
        tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor]
        return sum(item.numel() >= 3 * 96 * 96 for item in tensors)

    before = large()
    with pytest.raises(CancelledError, match=r"the callback stopped the work at step 3 of 8"):
        resolver.upscale_tensor(lr, seeds=[0], tile=8, halo=4, batch_size=1, callback=stop)
    last = previews[2]
    del previews[:]
    assert torch.equal(last[..., :48, :48], whole[..., :48, :48])
    assert not torch.equal(last[..., :48, 48:], whole[..., :48, 48:])
    assert torch.equal(last[..., 48:, :], imresize(lr, 4).clamp(0, 1)[..., 48:, :])
    del last
    assert large() == before


def test_bfloat16_is_near_float32_from_the_encoders_image(model, config):
    lr = torch.rand(1, 3, 16, 16)
    options: dict[str, Any] = {"seeds": [0], "start": 6, "sampler": "ddim", "steps": 1}
    exact = SuperResolver(model, config, device="cpu").upscale_tensor(lr, **options)
    narrow = SuperResolver(model, config, device="cpu", dtype="bf16")
    assert model.encoder.conv_last.weight.dtype == torch.float32
    assert model.denoiser.final_conv.weight.dtype == torch.bfloat16
    error = (narrow.upscale_tensor(lr, **options) - exact).square().mean()
    assert -10 * torch.log10(error) > 50


def test_a_compressed_jpeg_in_a_model_for_clean_images_is_named_once(
    model, config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for quality in (50, 95):
        Image.fromarray(photo(16, 16)).save(tmp_path / f"{quality}.jpg", quality=quality)
    for degradation, file, lines in (("photo", 50, 0), ("bicubic", 95, 0), ("bicubic", 50, 1)):
        caplog.clear()
        resolver = SuperResolver(model, dataclasses.replace(config, degradation=degradation), device="cpu")
        for _ in range(2):
            resolver.upscale(tmp_path / f"{file}.jpg", steps=0)
        assert caplog.text.count("a JPEG of quality about 50 meets a model for clean images") == lines


def test_an_animation_takes_one_seed_for_all_frames(resolver: SuperResolver, tmp_path: Path) -> None:
    noise = Image.effect_noise((6, 5), 60).convert("RGB")
    frames = [noise, noise.rotate(180), noise]
    noise.save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=[30, 50, 70], loop=2)
    large = resolver.upscale_animation(io.BytesIO((tmp_path / "a.png").read_bytes()), seed=5, max_pixels=90)
    assert (large.info["duration"], large.info["loop"]) == ([30, 50, 70], 2)
    expected = np.asarray(resolver.upscale(noise, seed=5))
    np.testing.assert_array_equal(np.asarray(large), expected)
    np.testing.assert_array_equal(np.asarray(large.info["frames"][1]), expected)


def test_a_still_image_is_no_animation(resolver: SuperResolver, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png is not an animation; use upscale"):
        resolver.upscale_animation(tmp_path / "a.png")
