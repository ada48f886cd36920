"""Habits of users of other libraries: calling the object, ``.to``, other names; and seamless textures."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from sam_diffsr import SuperResolver
from sam_diffsr.diffusion import PositionNoise
from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline import run


def texture(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, channels), dtype=np.uint8)


def test_the_resolver_can_be_called(resolver) -> None:
    assert np.array_equal(resolver(texture(), seed=3), resolver.upscale(texture(), seed=3))


def test_to_moves_and_casts_in_place(resolver) -> None:
    before = resolver.upscale(texture())
    assert resolver.to("bf16") is resolver
    assert resolver.dtype == torch.bfloat16
    assert resolver.model.encoder.conv_first.weight.dtype == torch.bfloat16
    assert resolver.model.encoder.conv_last.weight.dtype == torch.float32
    assert np.abs(resolver.to(torch.float32).to("cpu").upscale(texture()).astype(int) - before).mean() < 8
    assert resolver.dtype == torch.float32
    for wrong, message in (
        ("warp", "device must be"),
        (torch.float64, "dtype must be"),
        ("fp16", "too slow on a CPU"),
    ):
        with pytest.raises(ArgumentError, match=message):
            resolver.to(wrong)
    assert (resolver.device.type, resolver.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("num_inference_steps", "upscale has no argument num_inference_steps; it is called steps here"),
        ("tile_overlap", "it is called halo here"),
        ("generator", "it is called seed here"),
        ("fidelty", "it is called fidelity here"),
        ("xyzzy", r"; expected some of image, steps, sampler"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(resolver, name, message) -> None:
    for call in (resolver, resolver.upscale):
        with pytest.raises(ArgumentError, match=message):
            call(texture(), **{name: 4})


def test_names_of_other_libraries_while_loading() -> None:
    for name, ours in (("torch_dtype", "dtype"), ("device_map", "device"), ("revison", "revision")):
        with pytest.raises(
            ArgumentError, match=f"from_pretrained has no argument {name}; it is called {ours} here"
        ):
            SuperResolver.from_pretrained(**{name: "auto"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="expected some of pretrained_model_name_or_path, revision"):
        SuperResolver.from_pretrained(xyzzy=1)  # pyright: ignore[reportCallIssue]


def test_names_of_other_libraries_with_tensors(resolver) -> None:
    for name, message in (
        ("seed", "it is called seeds here"),
        ("num_steps", "it is called steps here"),
        ("xyzzy", "expected some of lr, seeds, progress, callback, steps"),
    ):
        with pytest.raises(ArgumentError, match=f"upscale_tensor has no argument {name}; {message}"):
            resolver.upscale_tensor(torch.rand(1, 3, 4, 4), **{name: 4})


def test_the_seeds_of_tensors_are_given_as_for_images(resolver) -> None:
    lr = torch.rand(2, 3, 4, 4)
    expected = resolver.upscale_tensor(lr, seeds=[3, 4])
    assert torch.equal(resolver.upscale_tensor(lr, seeds=3), expected)
    assert torch.equal(resolver.upscale_tensor(lr, seeds=np.array([3, 4])), expected)
    with pytest.raises(ArgumentError, match="seed must be one integer or 2 of them, one per image; got 1"):
        resolver.upscale_tensor(lr, seeds=[3])


def test_a_tensor_of_a_training_is_taken_without_its_gradient(resolver) -> None:
    lr = torch.rand(1, 3, 4, 4)
    expected = resolver.upscale_tensor(lr, seeds=[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = resolver.upscale_tensor(lr.clone().requires_grad_(), seeds=[3])
    assert torch.equal(result, expected)
    assert not result.requires_grad


@pytest.fixture(scope="module")
def bundled() -> SuperResolver:
    return SuperResolver.from_pretrained(device="cpu")


@pytest.mark.parametrize(("channels", "options"), [(1, {}), (4, {"outscale": 2.0}), (3, {"outscale": 0.5})])
def test_a_seamless_texture_stays_seamless(bundled, channels, options) -> None:
    """Which border is at the border does not matter: a rolled input gives the rolled result."""
    image = texture(channels)
    if channels == 4:
        image[..., 3] |= 128

    def upscale(array):
        return bundled.upscale(array, steps=0, wrap=True, **options).astype(int)

    factor = options.get("outscale", bundled.scale)
    expected = np.roll(upscale(image), (int(4 * factor), int(-6 * factor)), (0, 1))
    assert np.abs(upscale(np.roll(image, (4, -6), (0, 1))) - expected).max() <= 1
    plain = bundled.upscale(image, steps=0, **options).astype(int)
    assert np.abs(upscale(image) - plain).max() > 3


def test_the_noise_of_a_seamless_texture_is_seamless(resolver, monkeypatch) -> None:
    """The result is the middle of a repeated input with repeated noise, and so is the preview."""
    image = torch.from_numpy(texture()).permute(2, 0, 1)[None] / 255
    shown = []
    result = resolver.upscale_tensor(
        image, wrap=True, seeds=3, callback=lambda done, total, preview: shown.append(preview())
    )
    margin, (rows, columns) = resolver.config.lr_halo, image.shape[-2:]
    down, across = (torch.arange(-margin, side + margin) % side for side in (rows, columns))
    repeated = image[:, :, down[:, None], across]

    class Repeated(PositionNoise):
        def __init__(self, seeds, corners, period) -> None:
            super().__init__(seeds, [(-4 * margin, -4 * margin)], period=(4 * rows, 4 * columns))

    monkeypatch.setattr(run, "PositionNoise", Repeated)
    expected = resolver.upscale_tensor(repeated, seeds=3)[
        ..., 4 * margin : -4 * margin, 4 * margin : -4 * margin
    ]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(shown[-1], expected, rtol=0, atol=0.5)
    assert shown[-1].shape == expected.shape


def test_wrapping_does_not_depend_on_the_halo(bundled) -> None:
    image = texture()
    wrapped, plain = (bundled.upscale(image, steps=0, wrap=True, halo=halo) for halo in (None, 0))
    assert np.array_equal(wrapped, plain)


def test_wrapping_round_an_image_smaller_than_the_halo(resolver) -> None:
    assert resolver.upscale(texture()[:1, :2], wrap=True).shape == (4, 8, 3)


def test_wrap_is_true_or_false(resolver) -> None:
    with pytest.raises(ArgumentError, match="wrap must be True or False, got 'yes'"):
        resolver.upscale(texture(), wrap="yes")
