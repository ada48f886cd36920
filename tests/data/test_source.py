"""Batches are a function of seed and step; crops, synthetic images and processes share them as told."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.data import (
    AugmentConfig,
    CropStore,
    DataConfig,
    SyntheticConfig,
    TrainingSource,
    batches,
    make_batch,
    prepare_crops,
)
from sam_diffsr.data.source import _Batches
from sam_diffsr.data.synthetic import SyntheticPool
from sam_diffsr.errors import ArgumentError, ConfigError, DataError

SYNTHETIC = SyntheticConfig(size=64, pool=3, windows=4, pages=0.3)


def assert_same(one, other) -> None:
    for name in ("lr", "hr", "structure"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def crops_of(store: CropStore, *, seed: int = 0, **table: Any) -> TrainingSource:
    """A source of crops alone."""
    table = {"crops": str(store.path), "patch": 32, **table}
    return TrainingSource(DataConfig(**table), scale=4, seed=seed)


def test_field_stays_on_its_pixels_from_disk(store: CropStore) -> None:
    """Values are a known function of the red channel, source by source."""
    source = crops_of(store, batch=4, seed=0)
    values = {}
    for index in range(len(store)):
        for red, value in zip(
            store.images[index][..., 0].ravel(), store.structure(index).ravel(), strict=True
        ):
            values.setdefault(int(red), set()).add(float(value))
    for step in range(4):
        batch = source.batch(step)
        reds = (batch.hr[:, 0] * 255).round().int().flatten().tolist()
        fields = batch.structure.flatten().tolist()
        assert all(field in values[red] for red, field in zip(reds, fields, strict=True))


def test_lr_is_on_the_8_bit_grid(store: CropStore) -> None:
    source = crops_of(store, batch=3, seed=1)
    batch = source.batch(0)
    levels = batch.lr * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert batch.lr.dtype == batch.hr.dtype == batch.structure.dtype == torch.float32


def test_batches_depend_on_seed_and_step_only(store: CropStore) -> None:
    forward = crops_of(store, batch=3, seed=5)
    straight = [forward.windows(step) for step in range(8)]
    jumping = crops_of(store, batch=3, seed=5)
    for step in (7, 0, 3):
        host = jumping.windows(step)
        assert torch.equal(host.images, straight[step].images)
        assert torch.equal(host.structure, straight[step].structure)
        assert torch.equal(host.draws.turns, straight[step].draws.turns)
    other = crops_of(store, batch=3, seed=6).windows(0)
    assert not torch.equal(other.images, straight[0].images)


def test_every_crop_once_an_epoch_in_a_new_order(store: CropStore) -> None:
    source = crops_of(store, batch=1, seed=0)
    count = len(store)
    epochs = [[source._index(epoch * count + place) for place in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_largest_patch_fits_and_a_larger_one_is_refused(store: CropStore) -> None:
    host = crops_of(store, patch=48, batch=1).windows(0)
    assert host.images.shape == (1, 64, 64, 3)
    with pytest.raises(DataError, match=r"crops need at least 68 pixels for patches of 52"):
        crops_of(store, patch=52, batch=1)


@pytest.mark.parametrize("patch", [2, 30])
def test_patch_must_be_a_multiple_of_the_scale(store: CropStore, patch: int) -> None:
    with pytest.raises(ArgumentError, match="patch must be a multiple of the scale 4"):
        crops_of(store, patch=patch, batch=1)


@pytest.fixture
def pool() -> SyntheticPool:
    return SyntheticPool(SYNTHETIC, seed=5)


def mixed(store: CropStore, fraction: float = 0.5, *, rank: int = 0, world: int = 1, **table: Any) -> Any:
    data: dict[str, Any] = {
        "crops": str(store.path),
        "synthetic": SYNTHETIC,
        "patch": 32,
        "batch": 4,
        **table,
    }
    config = DataConfig(synthetic_fraction=fraction, **data)
    return TrainingSource(config, scale=4, seed=5, rank=rank, world=world)


def test_mixed_batches_depend_on_seed_and_step_only(store: CropStore) -> None:
    forward, jumping = mixed(store), mixed(store)
    straight = [forward.batch(step) for step in range(12)]
    for step in (11, 0, 7):
        assert_same(jumping.batch(step), straight[step])
    assert not torch.equal(straight[0].hr, straight[1].hr)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_made_ahead_are_the_same(store: CropStore, workers: int) -> None:
    source = mixed(store, degradation="photo")
    with batches(source, start=3, stop=9, device=torch.device("cpu"), workers=workers) as made:
        ahead = list(made)
    assert len(ahead) == 6
    for step, batch in enumerate(ahead, start=3):
        assert_same(batch, source.batch(step))


def test_a_source_can_be_sent_to_a_process(store: CropStore) -> None:
    source = mixed(store, rank=1, world=2)
    sent = pickle.dumps(source)
    assert len(sent) < 10_000
    assert_same(pickle.loads(sent).batch(3), source.batch(3))


def test_a_process_opens_the_crops_of_photos(photos: Path, tmp_path: Path) -> None:
    config = DataConfig(photos=str(photos), structure="zero", patch=32, batch=2)
    source = TrainingSource(config, scale=4, seed=0, cache=tmp_path / "cache")
    sent = pickle.dumps(source)
    Image.new("RGB", (300, 300)).save(photos / "new.png")  # later photos do not count
    assert_same(pickle.loads(sent).batch(1), source.batch(1))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_in_the_place_of_its_batch(store: CropStore, workers: int, tmp_path: Path) -> None:
    folder = shutil.copytree(store.path, tmp_path / "crops")
    source = crops_of(CropStore(folder), batch=1)
    damaged = source._index(2)
    labels = np.load(folder / "labels.npy", mmap_mode="r+")
    labels[damaged] = 60_000
    labels.flush()
    with batches(source, start=0, stop=9, device=torch.device("cpu"), workers=workers) as made:
        assert_same(next(made), source.batch(0))
        assert_same(next(made), source.batch(1))
        with pytest.raises(DataError, match=f"crop {damaged} has label 60000") as caught:
            next(made)
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_full_shared_memory_is_an_error(store: CropStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    batch = _Batches(mixed(store))[0]
    assert isinstance(batch, DataError)
    assert "--shm-size" in str(batch)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_share_of_synthetic_rows(store: CropStore, fraction: float) -> None:
    source = mixed(store, fraction)
    counts = [sum(source._place(step, row)[0] for row in range(4)) for step in range(10)]
    assert sum(counts) == 40 * fraction
    assert max(counts) - min(counts) <= 1


def test_every_crop_once_an_epoch_beside_synthetic_images(store: CropStore) -> None:
    source, count = mixed(store, 0.5, batch=2), len(store)
    seen: list[int] = []
    real = source._index
    source._index = lambda position: seen.append(real(position)) or seen[-1]
    for step in range(count):
        source.windows(step)
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_of_one(store: CropStore, world: int) -> None:
    whole = mixed(store)
    parts = [mixed(store, rank=rank, world=world) for rank in range(world)]
    for step in (0, 3):
        batch = whole.batch(step)
        for rank, part in enumerate(parts):
            mine = part.batch(step)
            for name in ("lr", "hr", "structure"):
                assert torch.equal(getattr(mine, name), getattr(batch, name)[rank::world])


def test_a_synthetic_window_has_the_pixels_and_the_field_of_its_image(pool: SyntheticPool) -> None:
    source = TrainingSource(DataConfig(synthetic=SYNTHETIC, patch=32, batch=4), scale=4, seed=5)
    windows, rng = source.windows(0), np.random.default_rng([5, 1, 0])
    for row in range(4):
        top, left = rng.integers(0, SYNTHETIC.size - 48, size=2, endpoint=True)
        place, drawing = np.s_[top : top + 48, left : left + 48], pool.drawing(row)
        np.testing.assert_array_equal(windows.images[row].numpy(), pool.picture(drawing)[place])
        np.testing.assert_array_equal(windows.structure[row].numpy(), drawing.values[drawing.labels][place])
    still = windows.draws._replace(turns=torch.zeros(4, dtype=torch.int64))
    batch = make_batch(replace(windows, draws=still), scale=4)
    inside = windows.images[:, 8:-8, 8:-8].permute(0, 3, 1, 2)
    assert torch.equal((batch.hr * 255).round().to(torch.uint8), inside)


def test_structure_zero_is_e_of_zero(store: CropStore) -> None:
    with_field, without = mixed(store), mixed(store, structure="zero")
    assert with_field.windows(0).structure.any()
    batch = without.batch(0)
    assert not batch.structure.any()
    assert torch.equal(batch.hr, with_field.batch(0).hr)


def test_batch_that_cannot_be_shared(store: CropStore) -> None:
    with pytest.raises(ArgumentError, match="a batch of 4 cannot be shared equally by 3 processes"):
        mixed(store, world=3)


def test_synthetic_images_that_are_too_small() -> None:
    with pytest.raises(
        DataError, match=r"synthetic images need at least 68 pixels .* data\.synthetic\.size is 64"
    ):
        TrainingSource(DataConfig(synthetic=SYNTHETIC, patch=52, batch=1), scale=4, seed=0)


def test_open_synthetic_needs_nothing() -> None:
    source = TrainingSource(DataConfig(synthetic=SYNTHETIC, patch=32, batch=2), scale=4, seed=0)
    batch = source.batch(0)
    assert batch.lr.shape == (2, 3, 8, 8)
    assert batch.structure.any()


def test_open_a_plain_folder(photos: Path, tmp_path: Path) -> None:
    config = DataConfig(photos=str(photos), structure="zero", patch=32, batch=2)
    source = TrainingSource(config, scale=4, seed=0, cache=tmp_path / "cache")
    store = CropStore(tmp_path / "cache")
    assert len(store) > 0
    written = (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns
    again = TrainingSource(config, scale=4, seed=0, cache=tmp_path / "cache")
    assert (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns == written
    assert_same(source.batch(1), again.batch(1))


def test_plain_folder_needs_a_cache(photos: Path) -> None:
    with pytest.raises(ArgumentError, match=r"data\.photos needs a cache folder"):
        TrainingSource(DataConfig(photos=str(photos)), scale=4, seed=0)


def test_crops_of_another_encoding(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    store = prepare_crops(
        tmp_path, tmp_path / "out", crop_size=64, reductions=(1,), segmenter="none", encoding="cosine"
    )
    config = DataConfig(crops=str(store.path), patch=32, encoding="rope")
    with pytest.raises(ConfigError, match=r"data\.encoding is 'rope', but .* was prepared with 'cosine'"):
        TrainingSource(config, scale=4, seed=0)
    assert TrainingSource(DataConfig(crops=str(store.path), patch=32), scale=4, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"set data\.crops, data\.photos or data\.synthetic"),
        ({"crops": "a", "photos": "b"}, r"either data\.crops or data\.photos"),
        ({"crops": "a", "masks": "b"}, r"data\.masks belongs to data\.photos"),
        ({"crops": "a", "patch": 0}, r"data\.patch must be >= 1, got 0"),
        (
            {"crops": "a", "synthetic_fraction": 1.5},
            r"data\.synthetic_fraction must lie in \[0, 1\], got 1\.5",
        ),
        (
            {"crops": "a", "missing_masks": "skip"},
            r"data\.missing_masks must be one of error, zero; got 'skip'",
        ),
        ({"crops": "a", "structure": "none"}, r"data\.structure must be one of stored, zero"),
        ({"crops": "a", "encoding": "x"}, r"data\.encoding must be one of rope"),
        ({"crops": "a", "reduction": "x"}, r"data\.reduction must be one of image, region"),
        (
            {"crops": "a", "batch": 1, "augment": AugmentConfig(mixup=0.5)},
            r"data\.augment\.mixup needs a second window: set data\.batch to at least 2, got 1",
        ),
    ],
)
def test_bad_data_config(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, r"data\.synthetic\.size must lie in \[32, 4096\], got 16"),
        ({"pool": 0}, r"data\.synthetic\.pool must be >= 1, got 0"),
        ({"pages": -0.1}, r"data\.synthetic\.pages must lie in \[0, 1\], got -0\.1"),
    ],
)
def test_bad_synthetic_config(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticConfig(**options)
