"""Synthetic images are what their seed says, with exact regions, soft edges and photo-like spectra."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.data import CropStore, SyntheticConfig, synthesize_crops
from sam_diffsr.data.synthetic import Drawing, SyntheticPool
from sam_diffsr.data.synthetic.drawing import draw_image, render
from sam_diffsr.data.synthetic.shapes import Canvas, power_law_radii
from sam_diffsr.data.synthetic.textures import natural_textures, photo_textures
from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.masks.spe import MAX_REGIONS, encode_structure


def drawing(index: int = 0, *, size: int = 96, seed: int = 0, pages: float = 0.0, **options) -> Drawing:
    config = SyntheticConfig(size=size, pages=pages)
    return draw_image(index, config, seed=seed, bank=natural_textures(0), **options)


def pixels(made: Drawing) -> np.ndarray:
    return render(made, torch.from_numpy(natural_textures(0).tiles)).numpy()


def plain(made: Drawing, **changes) -> Drawing:
    """The same shapes in flat gray: shape n is n / 255."""
    fills = np.zeros_like(made.fills)
    fills[:, :3] = (np.arange(len(fills)) % 256)[:, None] / 255
    fills[:, 3] = 1
    return replace(made, **{"fills": fills, "blur": 0.0, **changes})


def test_seed_and_index_make_the_image() -> None:
    first, again = pixels(drawing(3)), pixels(drawing(3))
    np.testing.assert_array_equal(first, again)
    assert (first != pixels(drawing(4))).mean() > 0.5
    assert (first != pixels(drawing(3, seed=1))).mean() > 0.5


def test_inner_pixels_show_their_own_region_and_edges_are_mixed() -> None:
    made = drawing(1)
    image = pixels(plain(made))[..., 0]
    blocks = made.fine.reshape(96, 2, 96, 2).transpose(0, 2, 1, 3).reshape(96, 96, 4) % 256
    inner = (blocks == blocks[..., :1]).all(-1)
    assert 0.3 < inner.mean() < 0.98
    np.testing.assert_array_equal(image[inner], made.labels[inner] % 256)
    mean = blocks[~inner].mean(-1)
    assert np.abs(image[~inner] - mean).max() <= 0.51


def test_regions_are_exact_and_encoded_over_the_whole_image() -> None:
    made = drawing(2)
    np.testing.assert_array_equal(made.labels, made.fine[::2, ::2])
    masks = np.stack([made.labels == number for number in range(1, len(made.values))])
    expected = encode_structure(masks).numpy()
    np.testing.assert_allclose(made.structure(0, 0, 96), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(made.structure(5, 9, 20), made.structure(0, 0, 96)[5:25, 9:29])
    assert made.labels.min() >= 1


def test_encoding_can_be_chosen() -> None:
    made = drawing(2, encoding="cosine", reduction="region")
    share = np.bincount(made.labels.ravel()) / 96**2
    np.testing.assert_allclose(made.values, np.sqrt(share), rtol=1e-5)


def test_amplitude_spectrum_falls_as_that_of_photographs() -> None:
    """Amplitude about 1/f; photographs lie between -0.8 and -1.6."""
    slopes = [spectrum_slope(pixels(drawing(index, size=256))) for index in range(6)]
    assert -1.6 < np.mean(slopes) < -0.9
    assert all(-1.9 < slope < -0.6 for slope in slopes)


def spectrum_slope(image: np.ndarray) -> float:
    gray = image.mean(-1) - image.mean()
    window = np.hanning(len(gray))
    power = np.abs(np.fft.fft2(gray * window[:, None] * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(len(gray))[:, None], np.fft.fftfreq(len(gray)))
    edges = np.geomspace(4 / len(gray), 0.4, 12)
    rings = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    amplitude = [0.5 * np.log(power[ring].mean()) for ring in rings]
    return float(np.polyfit([np.log(frequency[ring].mean()) for ring in rings], amplitude, 1)[0])


def test_radii_follow_the_power_law() -> None:
    radii = power_law_radii(np.random.default_rng(0), 200_000, smallest=2, largest=100)
    assert radii.min() >= 2
    assert radii.max() <= 100
    # P(r > x) = (x**-2 - 100**-2) / (2**-2 - 100**-2)
    for x in (3, 6, 20):
        assert (radii > x).mean() == pytest.approx((x**-2 - 1e-4) / (0.25 - 1e-4), rel=0.1)


def test_images_use_the_range_and_are_not_clipped_away() -> None:
    images = np.stack([pixels(drawing(index)) for index in range(8)])
    assert 60 < images.mean() < 190
    assert 30 < images.std() < 90
    assert ((images == 0) | (images == 255)).mean() < 0.25


def test_pages_hold_few_regions_and_much_ground() -> None:
    made = [drawing(index, pages=1.0, size=192) for index in range(4)]
    assert all((page.labels == 1).mean() > 0.25 for page in made)
    assert all(len(np.unique(page.labels)) > 2 for page in made)


def test_text_is_painted_where_it_should_be() -> None:
    straight, turned = Canvas(64), Canvas(64)
    straight.text("Hxg", (32, 32), 20)
    turned.text("Hxg", (32, 32), 20, angle=90)
    for canvas in (straight, turned):
        rows, columns = np.nonzero(canvas.labels() == 2)
        assert 100 < len(rows) < 2000
        assert abs((rows.min() + rows.max()) / 2 - 64) < 8
        assert abs((columns.min() + columns.max()) / 2 - 64) < 8
    assert np.ptp(np.nonzero(straight.labels() == 2)[1]) > np.ptp(np.nonzero(straight.labels() == 2)[0])
    assert np.ptp(np.nonzero(turned.labels() == 2)[1]) < np.ptp(np.nonzero(turned.labels() == 2)[0])


def test_blur_softens_soft_shapes_only() -> None:
    made = plain(drawing(1))
    sharp = pixels(made)
    fills = made.fills.copy()
    fills[:, 9] = 1
    soft, none = pixels(plain(made, blur=1.0, fills=fills)), pixels(plain(made, blur=1.0))
    np.testing.assert_array_equal(none, sharp)
    assert (
        np.abs(np.diff(soft.astype(int), axis=1)).mean() < np.abs(np.diff(sharp.astype(int), axis=1)).mean()
    )
    assert soft.mean() == pytest.approx(sharp.mean(), abs=3)


def test_textures_repeat_without_a_seam() -> None:
    tiles = natural_textures(0).tiles[:8, ..., :3].astype(np.int16)
    inside = np.abs(np.diff(tiles, axis=1)).mean()
    assert np.abs(tiles[:, 0] - tiles[:, -1]).mean() < 3 * inside
    assert np.abs(tiles.mean((1, 2))).max() < 8


def test_colours_and_textures_of_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = np.clip(rng.normal((200, 60, 30), 6, (90, 200, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "red.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    bank = photo_textures(str(tmp_path), seed=0)
    assert bank.colours is not None
    np.testing.assert_allclose(bank.colours * 255, [[200, 60, 30]] * len(bank.colours), atol=3)
    assert bank.tiles[..., :3].std() == pytest.approx(6, rel=0.2)
    pool = SyntheticPool(SyntheticConfig(size=64, pages=0, photos=str(tmp_path)), seed=0)
    mean = pool.picture(pool.draw(0)).mean((0, 1))
    assert mean[0] > mean[1] > mean[2]


def test_photos_that_are_too_small_for_textures(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    with pytest.raises(DataError, match="none of the 1 photos has sides of at least 32 pixels"):
        photo_textures(str(tmp_path), seed=0)


def test_pool_replaces_its_images_one_by_one() -> None:
    pool = SyntheticPool(SyntheticConfig(size=32, pool=3, windows=4), seed=0)
    chosen = [pool.drawing(position).index for position in range(60)]
    for position, index in enumerate(chosen):
        assert position // 4 <= index < position // 4 + 3
    assert len(set(chosen)) > 14
    assert [pool.drawing(position).index for position in (59, 0, 30)] == [chosen[59], chosen[0], chosen[30]]


def test_crops_on_disk_are_the_images_of_the_pool(tmp_path: Path) -> None:
    config = SyntheticConfig(size=48, pages=0.5)
    seen: list[tuple[int, int]] = []
    store = synthesize_crops(
        tmp_path / "out",
        count=3,
        config=config,
        seed=7,
        progress=lambda done, count: seen.append((done, count)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    pool = SyntheticPool(config, seed=7)
    for index in range(3):
        made = pool.draw(index)
        np.testing.assert_array_equal(store.images[index], pool.picture(made))
        np.testing.assert_array_equal(store.structure(index), made.structure(0, 0, 48))
    written = (store.path / "manifest.json").stat().st_mtime_ns
    synthesize_crops(store.path, count=3, config=config, seed=7)
    assert (store.path / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(OutputError, match=r"holds crops of other photos .* --overwrite"):
        synthesize_crops(store.path, count=2, config=config, seed=7)

    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_crops(store.path, count=2, config=config, seed=7, overwrite=True, progress=stop)
    assert len(CropStore(store.path)) == 3
    assert len(synthesize_crops(store.path, count=2, config=config, seed=7, overwrite=True)) == 2


def test_run_that_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_crops(tmp_path / "out", count=2, config=SyntheticConfig(size=32), progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        CropStore(tmp_path / "out")


def test_synthesize_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="count must be at least 1, got 0"):
        synthesize_crops(tmp_path, count=0)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the crops in"):
        synthesize_crops(tmp_path / "file" / "out", count=1, config=SyntheticConfig(size=32))


def test_synthesize_refuses_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="seed must be at least 0, got -1"):
        synthesize_crops(tmp_path / "out", count=1, seed=-1)
    assert not (tmp_path / "out").exists()


def test_labels_end_at_the_largest_number() -> None:
    canvas = Canvas(8)
    canvas.count = MAX_REGIONS - 1
    square = np.array([[0.0, 0.0], [7, 0], [7, 7], [0, 7]])
    canvas.polygons(np.stack([square / 2, square]))
    canvas.lines([square], 2)
    canvas.outline(np.array([0.0, 0.0, 7.0, 7.0]), 2, round_=False)
    canvas.text("H", (4, 4), 6)
    assert canvas.count == MAX_REGIONS
    assert np.unique(canvas.labels()).tolist() == [1, MAX_REGIONS]
