"""Damage of low-resolution images: what it does to pixels, and what it is drawn from."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.config import from_dict
from sam_diffsr.data import DataConfig, TrainingSource, Windows, make_batch
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import (
    KERNELS,
    PHOTO,
    STEPS,
    Damage,
    DegradationConfig,
    Recipe,
    apply_recipe,
    draw_recipe,
    parse_degradation,
)
from sam_diffsr.data.training_batch import Draws
from sam_diffsr.errors import ArgumentError, ConfigError
from sam_diffsr.resize import imresize

NEVER = Damage(probability=0.0, low=1.0, high=1.0)


def picture(height: int = 96, width: int = 96, *, seed: int = 0) -> torch.Tensor:
    """A smooth image with some texture, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    smooth = imresize(coarse, 8) + 0.05 * torch.randn(1, 3, height, width, generator=generator)
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def blob(side: int = 160) -> torch.Tensor:
    """A Gaussian spot whose centre is the image's own, uint8."""
    offsets = torch.arange(side) - (side - 1) / 2
    line = torch.exp(-0.5 * (offsets / 14).square())
    return (line.outer(line) * 250).round().to(torch.uint8).expand(1, 3, side, side).contiguous()


def centre(image: torch.Tensor) -> tuple[float, float]:
    """Centre of mass of the light, in pixels from the middle of the image."""
    light = image.double().mean((0, 1))
    light = light / light.sum()
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in light.shape)
    return float((light.sum(1) * rows).sum()), float((light.sum(0) * columns).sum())


def only(name: str, damage: Damage) -> DegradationConfig:
    """Ranges that damage every image in one way."""
    damages = {each: damage if each == name else NEVER for each in STEPS}
    return DegradationConfig(
        clean=0.0,
        twice=0.0,
        blur=damages["blur"],
        noise=damages["noise"],
        poisson=damages["poisson"],
        jpeg=damages["jpeg"],
    )


def source_of(
    store: CropStore, degradation: Any, *, seed: int, rank: int = 0, world: int = 1
) -> TrainingSource:
    config = DataConfig(crops=str(store.path), patch=32, batch=4, degradation=degradation)
    return TrainingSource(config, scale=4, seed=seed, rank=rank, world=world)


def test_bicubic_is_matlabs() -> None:
    image = picture()
    assert torch.equal(parse_degradation("bicubic")(image), imresize(image, 0.25))


def test_an_image_that_is_never_damaged_is_matlabs_reduction(store: CropStore) -> None:
    clean, plain = (
        source_of(store, degradation, seed=1) for degradation in (DegradationConfig(clean=1.0), "bicubic")
    )
    one, other = (source.batch(3) for source in (clean, plain))
    assert torch.equal(one.lr, other.lr)
    assert torch.equal(one.hr, other.hr)


@pytest.mark.parametrize("kernel", range(len(KERNELS)))
@pytest.mark.parametrize("share", [None, 0.37])
def test_pixels_stay_where_they_are(kernel: int, share: float | None) -> None:
    """The centre of a spot moves by less than a hundredth of a pixel."""
    recipe = (("blur", (2.0, 0.7, 0.6)), ("reduce", (float(kernel), 1.0)), ("jpeg", (95.0, 1.0)))
    if share is not None:
        recipe = (("reduce", (float(kernel), share)), *recipe)
    lr = apply_recipe(blob(), recipe, scale=4, seed=0)
    assert lr.shape == (1, 3, 40, 40)
    assert max(abs(offset) for offset in centre(lr)) < 0.01


@pytest.mark.parametrize(
    "text", ["jpeg50", "noise10", "poisson8", "blur1.5", "blur1+noise5+jpeg75", "photo", " JPEG30 "]
)
def test_a_name_and_a_seed_give_one_image(text: str) -> None:
    image, degradation = picture(), parse_degradation(text)
    made = degradation(image, seed=3)
    assert made.shape == (1, 3, 24, 24)
    assert made.dtype == torch.uint8
    assert torch.equal(made, parse_degradation(text)(image, seed=3))


def test_photo_differs_from_seed_to_seed() -> None:
    image, photo = picture(), parse_degradation("photo")
    assert len({photo(image, seed=seed).numpy().tobytes() for seed in range(12)}) > 6


@pytest.mark.parametrize("sigma", [5.0, 10.0])
@pytest.mark.parametrize("kind", ["noise", "poisson"])
@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_noise_is_as_strong_as_it_says(sigma: float, kind: str, gray: float) -> None:
    """Poisson noise has its sigma at white, and half of it at a quarter of that."""
    level = 64 if kind == "poisson" else 128
    flat = torch.full((1, 3, 256, 256), level / 255)
    noisy = STEPS[kind](flat, (sigma, gray), torch.Generator().manual_seed(0))
    expected = sigma * (level / 255) ** 0.5 if kind == "poisson" else sigma
    assert float((noisy - flat).std()) * 255 == pytest.approx(expected, rel=0.05)
    assert float((noisy - flat).mean()) * 255 == pytest.approx(0, abs=0.1)
    assert torch.allclose(noisy[:, 0], noisy[:, 1]) == (gray > 0)


def test_jpeg_is_pillows() -> None:
    image = picture()
    lr = parse_degradation("bicubic")(image)
    file = io.BytesIO()
    Image.fromarray(lr[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40, subsampling=2)
    expected = np.array(Image.open(file))
    made = parse_degradation("jpeg40")(image)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(made, expected)


def test_blur_widens_by_its_sigma() -> None:
    spot = torch.zeros(1, 3, 65, 65)
    spot[..., 32, 32] = 1
    blurred = STEPS["blur"](spot, (3.0, 1.0, 0.0), torch.Generator())[0, 0]
    offsets = (torch.arange(65) - 32).float()
    for dimension, sigma in ((0, 3.0), (1, 1.0)):
        spread = float((blurred.sum(dimension) * offsets.square()).sum()) ** 0.5
        assert spread == pytest.approx(sigma, rel=0.05)
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_blur_of_an_image_smaller_than_its_kernel() -> None:
    tiny = torch.rand(1, 3, 4, 4)
    assert STEPS["blur"](tiny, (9.0, 9.0, 0.0), torch.Generator()).shape == tiny.shape


@pytest.mark.parametrize("name", ["blur", "noise", "poisson"])
def test_a_strength_of_zero_changes_nothing(name: str) -> None:
    image = torch.rand(1, 3, 16, 16)
    numbers = (0.0, 0.0, 0.0)[: 3 if name == "blur" else 2]
    assert torch.allclose(STEPS[name](image, numbers, torch.Generator()), image)


def test_recipes_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    recipes = [draw_recipe(rng, PHOTO) for _ in range(2000)]
    clean = sum(not recipe for recipe in recipes) / len(recipes)
    assert clean == pytest.approx(PHOTO.clean, abs=0.03)
    twice = [recipe for recipe in recipes if sum(name == "reduce" for name, _ in recipe) == 2]
    assert len(twice) / sum(map(bool, recipes)) == pytest.approx(PHOTO.twice, abs=0.03)
    for name, numbers in (step for recipe in recipes for step in recipe):
        if name != "reduce":
            damage: Damage = getattr(PHOTO, name)
            assert damage.low <= numbers[0] <= damage.high
    for recipe in filter(None, recipes):
        assert [numbers[1] for name, numbers in recipe if name == "reduce"][-1] == 1.0
    kinds = {name for recipe in recipes for name, _ in recipe}
    assert kinds == {"reduce", *STEPS}
    orders = {tuple(name for name, _ in recipe if name in ("noise", "jpeg")) for recipe in recipes if recipe}
    assert {("noise", "jpeg"), ("jpeg", "noise")} <= orders


@pytest.mark.parametrize("name", list(STEPS))
def test_a_damage_alone(name: str) -> None:
    config = only(name, Damage(probability=1.0, low=30.0, high=30.0))
    recipe = draw_recipe(np.random.default_rng(0), config)
    assert sorted(step for step, _ in recipe) == sorted([name, "reduce"])


def test_batches_depend_on_seed_and_step_alone(store: CropStore) -> None:
    def batch(step: int, *, seed: int = 5, first: int = 0) -> torch.Tensor:
        source = source_of(store, PHOTO, seed=seed)
        for earlier in range(first, step):
            source.windows(earlier)
        return source.batch(step).lr

    assert torch.equal(batch(3), batch(3, first=2))
    assert not torch.equal(batch(3), batch(4))
    assert not torch.equal(batch(3), batch(3, seed=6))
    levels = batch(3) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_processes_share_the_damage_of_a_batch(store: CropStore) -> None:
    noisy = replace(PHOTO, clean=0.0, noise=Damage(probability=1.0, low=10.0, high=10.0))
    recipes: list[tuple[Recipe, ...]] = []
    images: list[torch.Tensor] = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        source = source_of(store, noisy, seed=2, rank=rank, world=world)
        host = source.windows(1)
        recipes.append(host.recipes)
        images.append(make_batch(host, scale=4).lr)
    assert len(recipes[0]) == 4
    assert recipes[1:] == [recipes[0][0::2], recipes[0][1::2]]
    assert torch.equal(torch.stack(images[1:], dim=1).flatten(0, 1), images[0])


def test_only_rows_with_a_recipe_are_damaged() -> None:
    images = picture(48, 48).permute(0, 2, 3, 1).repeat(2, 1, 1, 1)
    fields = torch.zeros(2, 48, 48)
    recipe = (("reduce", (0.0, 1.0)), ("jpeg", (30.0, 0.0)))
    none = torch.zeros(2, dtype=torch.int64)
    draws = Draws(none, none, torch.arange(2), none)
    plain = make_batch(Windows(images, fields, draws), scale=4)
    batch = make_batch(Windows(images, fields, draws, recipes=((), recipe)), scale=4)
    assert torch.equal(batch.lr[0], plain.lr[0])
    assert not torch.equal(batch.lr[1], plain.lr[1])
    assert torch.equal(batch.hr, plain.hr)


def test_config_names_photo_or_gives_ranges(store: CropStore) -> None:
    crops = str(store.path)
    assert DataConfig(crops=crops).damage is None
    assert DataConfig(crops=crops, degradation="photo").damage == PHOTO
    own = {"clean": 0.5, "jpeg": {"probability": 1.0, "low": 70, "high": 90}}
    config = from_dict(DataConfig, {"crops": crops, "patch": 32, "batch": 2, "degradation": own})
    assert config.damage == DegradationConfig(clean=0.5, jpeg=Damage(probability=1.0, low=70, high=90))
    assert len(TrainingSource(config, scale=4, seed=0).windows(0).recipes) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("blurry", r"degradation must be one of bicubic, photo; got 'blurry'"),
        ({"clean": 1.5}, r"data.degradation.clean must lie in \[0, 1\], got 1.5"),
        ({"jpeg": {"probability": 1, "low": 0, "high": 50}}, r"jpeg.low must lie in \[1, 100\], got 0"),
        ({"blur": {"probability": 2, "low": 0, "high": 1}}, r"probability must lie in \[0, 1\], got 2"),
        ({"blur": {"probability": 1, "low": 3, "high": 1}}, r"0 <= low <= high, got 3.0 and 1.0"),
        ({"blurr": 1}, r"unknown keys \['blurr'\] \(did you mean 'blur'"),
    ],
)
def test_config_errors(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, {"crops": "c", "degradation": value})


@pytest.mark.parametrize("text", ["", "jpeg", "sepia5", "jpeg50 noise5", "photo+jpeg50"])
def test_names_that_mean_nothing(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"a degradation is bicubic, photo, or damages joined by \+"):
        parse_degradation(text)


@pytest.mark.parametrize("text", ["jpeg0", "jpeg101", "noise300", "blur50"])
def test_strengths_out_of_range(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"must lie in"):
        parse_degradation(text)


def test_sides_must_be_multiples_of_the_scale() -> None:
    with pytest.raises(ArgumentError, match="multiples of the scale 4, got 32x30"):
        parse_degradation("jpeg50")(torch.zeros(1, 3, 30, 32, dtype=torch.uint8))


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)])
def test_one_image_of_levels_is_damaged_at_a_time(image: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match="expected one image"):
        parse_degradation("jpeg50")(image)


@pytest.mark.parametrize("numbers", [{"seed": -1}, {"scale": 0}])
def test_seed_and_scale_out_of_range(numbers: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="expected a scale >= 1 and a seed >= 0"):
        parse_degradation("photo")(picture(), **numbers)


def test_torchs_global_state_changes_no_damage() -> None:
    degrade, image = parse_degradation("blur1.5+noise10+poisson5+jpeg75"), picture(40, 40)
    plain = degrade(image)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(degrade(image), plain)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
