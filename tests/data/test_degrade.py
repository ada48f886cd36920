"""Image, LR and structure field of a batch belong to the same pixels, whichever way they are turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.data import BatchSource, CropStore, degrade, dihedral, make_batch
from sam_diffsr.data.degrade import HostBatch
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.resize import imresize

CPU = torch.device("cpu")


def coordinates(side: int) -> torch.Tensor:
    """An image whose every pixel is different."""
    return torch.arange(side * side).view(1, 1, side, side)


def test_dihedral_is_the_symmetries_of_the_square() -> None:
    image = coordinates(5)
    turned = [dihedral(image, torch.tensor([code]))[0, 0].numpy() for code in range(8)]
    square = image[0, 0].numpy()
    flips, quarters = (square, square[:, ::-1]), range(4)
    group = {np.rot90(flip, quarter).tobytes() for flip in flips for quarter in quarters}
    assert {array.tobytes() for array in turned} == group
    assert len(group) == 8
    np.testing.assert_array_equal(turned[0], square)
    np.testing.assert_array_equal(turned[1], square[:, ::-1])
    np.testing.assert_array_equal(turned[2], square[::-1])
    np.testing.assert_array_equal(turned[4], square.T)


def test_dihedral_turns_each_image_by_its_own_code() -> None:
    images = coordinates(4).expand(8, 2, 4, 4)
    together = dihedral(images, torch.arange(8))
    for code in range(8):
        assert torch.equal(together[code : code + 1], dihedral(images[:1], torch.tensor([code])))


def test_dihedral_needs_squares() -> None:
    with pytest.raises(ArgumentError, match=r"expected square images, got \(4, 5\)"):
        dihedral(torch.zeros(1, 1, 4, 5), torch.tensor([0]))


@pytest.mark.parametrize("code", range(8))
def test_field_stays_on_its_pixels(code: int) -> None:
    """The field repeats the red channel, so a shift by one pixel on any side would show."""
    generator = torch.Generator().manual_seed(code)
    images = torch.randint(0, 256, (2, 48, 48, 3), generator=generator, dtype=torch.uint8)
    host = HostBatch(images, images[..., 0].float(), torch.full((2,), code))
    batch = make_batch(host, scale=4, device=CPU)
    assert batch.hr.shape == (2, 3, 32, 32)
    assert batch.lr.shape == (2, 3, 8, 8)
    assert batch.structure.shape == (2, 1, 32, 32)
    assert torch.equal(batch.structure, (batch.hr[:, :1] * 255).round())
    for shift, dimension in ((1, -1), (-1, -1), (1, -2), (-1, -2)):
        assert not torch.equal(batch.structure.roll(shift, dimension), (batch.hr[:, :1] * 255).round())


def test_field_stays_on_its_pixels_from_disk(store: CropStore) -> None:
    """Values are a known function of the red channel, source by source."""
    source = BatchSource(store, patch=32, scale=4, batch=4, seed=0)
    values = {}
    for index in range(len(store)):
        for red, value in zip(
            store.images[index][..., 0].ravel(), store.structure(index).ravel(), strict=True
        ):
            values.setdefault(int(red), set()).add(float(value))
    for step in range(4):
        batch = make_batch(source.host_batch(step), scale=4, device=CPU)
        reds = (batch.hr[:, 0] * 255).round().int().flatten().tolist()
        fields = batch.structure.flatten().tolist()
        assert all(field in values[red] for red, field in zip(reds, fields, strict=True))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_lr_is_a_window_of_the_whole_images_lr(scale: int) -> None:
    whole = torch.randint(0, 256, (1, 3, 20 * scale, 20 * scale), dtype=torch.uint8)
    top, left, side = 3 * scale, 5 * scale, 10 * scale
    window = whole[..., top : top + side, left : left + side]
    batch = degrade(window, window[:, :1].float(), scale=scale)
    expected = imresize(whole, 1 / scale)[..., 3 + 2 : 3 + 10 - 2, 5 + 2 : 5 + 10 - 2]
    assert torch.equal(batch.lr, expected.float() / 255)
    assert torch.equal(batch.hr, window[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale].float() / 255)


def test_lr_of_a_turned_image_is_the_turned_lr() -> None:
    """But for ties of the rounding, which the order of the sums decides."""
    images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8)
    field, codes = torch.zeros(8, 1, 40, 40), torch.arange(8)
    straight, turned = degrade(images, field, scale=4), degrade(dihedral(images, codes), field, scale=4)
    assert (turned.lr - dihedral(straight.lr, codes)).abs().max() < 1.01 / 255


def test_lr_is_on_the_8_bit_grid(store: CropStore) -> None:
    batch = make_batch(
        BatchSource(store, patch=32, scale=4, batch=3, seed=1).host_batch(0), scale=4, device=CPU
    )
    levels = batch.lr * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert batch.lr.dtype == batch.hr.dtype == batch.structure.dtype == torch.float32


def test_batches_depend_on_seed_and_step_only(store: CropStore) -> None:
    forward = BatchSource(store, patch=32, scale=4, batch=3, seed=5)
    straight = [forward.host_batch(step) for step in range(8)]
    jumping = BatchSource(store, patch=32, scale=4, batch=3, seed=5)
    for step in (7, 0, 3):
        host = jumping.host_batch(step)
        assert torch.equal(host.images, straight[step].images)
        assert torch.equal(host.structure, straight[step].structure)
        assert torch.equal(host.turns, straight[step].turns)
    other = BatchSource(store, patch=32, scale=4, batch=3, seed=6).host_batch(0)
    assert not torch.equal(other.images, straight[0].images)


def test_every_crop_once_an_epoch_in_a_new_order(store: CropStore) -> None:
    source = BatchSource(store, patch=32, scale=4, batch=1, seed=0)
    count = len(store)
    epochs = [[source._index(epoch * count + place) for place in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_largest_patch_fits_and_a_larger_one_is_refused(store: CropStore) -> None:
    host = BatchSource(store, patch=48, scale=4, batch=1, seed=0).host_batch(0)
    assert host.images.shape == (1, 64, 64, 3)
    with pytest.raises(DataError, match=r"patches of 52 pixels need crops of at least 68"):
        BatchSource(store, patch=52, scale=4, batch=1, seed=0)


@pytest.mark.parametrize("patch", [0, 30])
def test_patch_must_be_a_multiple_of_the_scale(store: CropStore, patch: int) -> None:
    with pytest.raises(ArgumentError, match="patch must be a multiple of the scale 4"):
        BatchSource(store, patch=patch, scale=4, batch=1, seed=0)


def test_empty_batch(store: CropStore) -> None:
    with pytest.raises(ArgumentError, match="batch must be at least 1, got 0"):
        BatchSource(store, patch=32, scale=4, batch=0, seed=0)
