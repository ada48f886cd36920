"""Channel orders and blends: off is as before; LR is made of what HR became; seed and step decide alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sam_diffsr.data import (
    AugmentConfig,
    CropStore,
    DataConfig,
    SyntheticConfig,
    TrainingSource,
    Windows,
    make_batch,
)
from sam_diffsr.data.training_batch import CHANNEL_ORDERS, Draws, dihedral, mix_windows
from sam_diffsr.errors import ConfigError

BOTH = AugmentConfig(permute_channels=0.7, mixup=0.6)
NAMES = ("lr", "hr", "structure")


def source_of(
    store: CropStore,
    augment: AugmentConfig | None,
    *,
    seed: int = 5,
    batch: int = 8,
    rank: int = 0,
    world: int = 1,
) -> TrainingSource:
    synthetic = SyntheticConfig(size=64, pool=3, windows=4)
    table: dict[str, Any] = {"crops": str(store.path), "synthetic": synthetic, "patch": 32, "batch": batch}
    config = DataConfig(augment=augment or AugmentConfig(), **table)
    return TrainingSource(config, scale=4, seed=seed, rank=rank, world=world)


def only_turns(turns: torch.Tensor) -> Draws:
    return Draws(turns, torch.zeros_like(turns), torch.arange(len(turns)), torch.full_like(turns, 128))


def plain(windows: Windows) -> Windows:
    """The same windows and turns, and nothing else."""
    return Windows(windows.images, windows.structure, only_turns(windows.draws.turns))


def levels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def test_off_is_the_draws_and_the_batch_of_before(store: CropStore) -> None:
    source = TrainingSource(DataConfig(crops=str(store.path), patch=32, batch=8), scale=4, seed=5)
    for step in (0, 3):
        host = source.windows(step)
        rng = np.random.default_rng([5, 1, step])
        order = np.concatenate([np.random.default_rng([5, 0, e]).permutation(len(store)) for e in range(9)])
        for row, index in enumerate(order[8 * step : 8 * step + 8]):
            top, left = rng.integers(0, 64 - 48, size=2, endpoint=True)
            image = store.images[index][top : top + 48, left : left + 48]
            np.testing.assert_array_equal(host.images[row].numpy(), image)
        np.testing.assert_array_equal(host.draws.turns.numpy(), rng.integers(0, 8, size=8))
        assert not host.draws.orders.any()
        assert host.draws.partners.tolist() == list(range(8))
        batch = make_batch(host, scale=4)
        planes, fields = host.images.permute(0, 3, 1, 2), host.structure[:, None]
        turned = (
            dihedral(planes, host.draws.turns).permute(0, 2, 3, 1),
            dihedral(fields, host.draws.turns)[:, 0],
        )
        expected = make_batch(Windows(*turned, only_turns(torch.zeros(8, dtype=torch.int64))), scale=4)
        assert all(torch.equal(getattr(batch, name), getattr(expected, name)) for name in NAMES)


def test_windows_and_turns_stay_the_same_whatever_is_on(store: CropStore) -> None:
    without, source = source_of(store, None), source_of(store, BOTH)
    on = source.windows(2)
    assert on.draws.orders.any()
    assert on.draws.partners.tolist() != list(range(8))
    one, other = (make_batch(windows, scale=4) for windows in (without.windows(2), plain(on)))
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def test_permuted_windows_have_the_channels_in_the_order_drawn(store: CropStore) -> None:
    source = source_of(store, AugmentConfig(permute_channels=1.0))
    host = source.windows(0)
    before, after = make_batch(plain(host), scale=4), make_batch(host, scale=4)
    assert len(set(host.draws.orders.tolist())) > 2
    for row, order in enumerate(host.draws.orders.tolist()):
        for channel, former in enumerate(CHANNEL_ORDERS[order]):
            assert torch.equal(after.hr[row, channel], before.hr[row, former])
            assert torch.equal(after.lr[row, channel], before.lr[row, former])
    assert torch.equal(after.structure, before.structure)


def test_all_six_orders_are_permutations_and_as_likely_as_said() -> None:
    images = torch.arange(3, dtype=torch.uint8).expand(6, 48, 48, 3)
    draws = only_turns(torch.zeros(6, dtype=torch.int64))._replace(orders=torch.arange(6))
    batch = make_batch(Windows(images, torch.zeros(6, 48, 48), draws), scale=4)
    assert [tuple(row) for row in levels(batch.hr[..., 0, 0]).tolist()] == list(CHANNEL_ORDERS)
    assert CHANNEL_ORDERS[0] == (0, 1, 2)
    drawn = Draws.of_batch(np.random.default_rng(0), AugmentConfig(permute_channels=0.6), batch=60_000)
    counts = np.bincount(drawn.orders.numpy(), minlength=6) / 60_000
    np.testing.assert_allclose(counts, [0.4 + 0.1, *[0.1] * 5], atol=0.006)


def blended(first: torch.Tensor, second: torch.Tensor, weight: int) -> torch.Tensor:
    """In float64, rounded half up."""
    return (first.double() * weight / 128 + second.double() * (128 - weight) / 128 + 0.5).floor().byte()


def test_mixed_windows_are_the_blends_drawn_and_lr_is_made_of_them(store: CropStore) -> None:
    source = source_of(store, AugmentConfig(mixup=0.7))
    host = source.windows(1)
    after = make_batch(host, scale=4)
    before = make_batch(plain(host), scale=4)
    blends = 0
    for row, (partner, weight) in enumerate(torch.stack(host.draws[2:], 1).tolist()):
        if row == partner:
            assert all(torch.equal(getattr(after, name)[row], getattr(before, name)[row]) for name in NAMES)
            continue
        blends += 1
        expected = blended(levels(before.hr[row]), levels(before.hr[partner]), weight)
        assert torch.equal(levels(after.hr[row]), expected)
        assert torch.equal(after.structure[row], before.structure[row if weight >= 64 else partner])
    assert 2 <= blends < 8
    assert after.hr.min() >= 0
    assert after.hr.max() <= 1


@pytest.mark.parametrize("weight", [0, 1, 63, 64, 65, 127, 128])
def test_lr_is_the_reduction_of_the_mixed_hr(weight: int) -> None:
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    images[0, :20], images[1, :20] = 255, 0
    fields = torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 48, 48)
    turns = torch.tensor([3, 6])
    draws = Draws(turns, torch.zeros_like(turns), torch.tensor([1, 1]), torch.tensor([weight, 5]))
    batch = make_batch(Windows(images, fields, draws), scale=4)
    turned = dihedral(images.permute(0, 3, 1, 2), turns)
    mixed = torch.stack([blended(turned[0], turned[1], weight), turned[1]])
    still = only_turns(torch.zeros_like(turns))
    expected = make_batch(Windows(mixed.permute(0, 2, 3, 1), fields, still), scale=4)
    assert torch.equal(batch.lr, expected.lr)
    assert torch.equal(batch.hr, expected.hr)
    assert batch.structure[0].unique().tolist() == [1.0 if weight >= 64 else 2.0]
    assert batch.structure[1].unique().tolist() == [2.0]


def test_blends_are_of_windows_as_they_were_before_any_blend() -> None:
    images = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    draws = only_turns(torch.zeros(3, dtype=torch.int64))
    draws = draws._replace(partners=torch.tensor([1, 0, 2]), weights=torch.tensor([64, 64, 64]))
    mixed, _ = mix_windows(images, torch.zeros(3, 1, 4, 4), draws)
    assert mixed[:, 0, 0, 0].tolist() == [50, 50, 200]
    assert images[:, 0, 0, 0].tolist() == [0, 100, 200]


@pytest.mark.parametrize("alpha", [0.3, 1.2, 4.0])
def test_weights_and_partners_follow_what_was_set(alpha: float) -> None:
    count = 40_000
    drawn = Draws.of_batch(
        np.random.default_rng(1), AugmentConfig(mixup=0.25, mixup_alpha=alpha), batch=count
    )
    mixed = drawn.partners.numpy() != np.arange(count)
    assert abs(mixed.mean() - 0.25) < 0.01
    weights = drawn.weights.numpy()[mixed] / 128
    assert 0 <= weights.min() <= weights.max() <= 1
    assert abs(weights.mean() - 0.5) < 0.01
    assert math.isclose(weights.var(), 1 / (4 * (2 * alpha + 1)), rel_tol=0.05)


def test_every_other_window_can_be_a_partner() -> None:
    rng = np.random.default_rng(2)
    pairs = {
        (row, int(partner))
        for _ in range(200)
        for row, partner in enumerate(Draws.of_batch(rng, AugmentConfig(mixup=1.0), batch=4).partners)
    }
    assert pairs == {(row, partner) for row in range(4) for partner in range(4) if row != partner}


def test_augmented_batches_depend_on_seed_and_step_only(store: CropStore) -> None:
    forward, jumping = source_of(store, BOTH), source_of(store, BOTH)
    straight = [forward.batch(step) for step in range(12)]
    for step in (11, 0, 7):
        batch = jumping.batch(step)
        assert all(torch.equal(getattr(batch, name), getattr(straight[step], name)) for name in NAMES)
    other = source_of(store, BOTH, seed=6).windows(0)
    assert not torch.equal(other.draws.orders, forward.windows(0).draws.orders)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_share_the_augmented_batch_of_one(store: CropStore, world: int) -> None:
    """A partner that belongs to another process is cut here, too."""
    whole = source_of(store, BOTH)
    parts = [source_of(store, BOTH, rank=rank, world=world) for rank in range(world)]
    guests = 0
    for step in (0, 3):
        batch = whole.batch(step)
        for rank, part in enumerate(parts):
            host = part.windows(step)
            guests += len(host.images) - 8 // world
            mine = make_batch(host, scale=4)
            for name in NAMES:
                assert torch.equal(getattr(mine, name), getattr(batch, name)[rank::world])
    assert guests > 0


def test_a_process_cuts_no_row_that_it_does_not_need() -> None:
    drawn = Draws.of_batch(np.random.default_rng(0), AugmentConfig(), batch=6)
    rows, own = drawn.share(rank=1, world=2)
    assert rows == [1, 3, 5]
    assert own.partners.tolist() == [0, 1, 2]
    drawn = Draws.of_batch(np.random.default_rng(0), AugmentConfig(mixup=1.0), batch=6)
    rows, own = drawn.share(rank=1, world=2)
    assert rows[:3] == [1, 3, 5]
    assert set(rows) == {1, 3, 5, *drawn.partners[[1, 3, 5]].tolist()}
    assert [rows[place] for place in own.partners] == drawn.partners[[1, 3, 5]].tolist()
    assert torch.equal(own.turns, drawn.turns[rows])


def test_a_batch_of_one_can_be_permuted(store: CropStore) -> None:
    source_of(store, AugmentConfig(permute_channels=1.0), batch=1).windows(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"permute_channels": 1.5},
            r"data\.augment\.permute_channels must lie in \[0, 1\], got 1\.5",
        ),
        ({"mixup": -0.1}, r"data\.augment\.mixup must lie in \[0, 1\], got -0\.1"),
        ({"mixup": math.nan}, r"data\.augment\.mixup must lie in \[0, 1\], got nan"),
        ({"mixup_alpha": 0.0}, r"data\.augment\.mixup_alpha must lie in \[0\.01, 100\], got 0\.0"),
        ({"mixup_alpha": math.inf}, r"data\.augment\.mixup_alpha must lie in \[0\.01, 100\], got inf"),
    ],
)
def test_bad_augment_config(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**options)
