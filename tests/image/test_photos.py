"""Photographs are listed without unfinished files, and read upright as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import DataError, ImageError
from sam_diffsr.image.photos import list_photos, read_photo


def test_photos_are_listed_with_their_subfolders(tmp_path: Path) -> None:
    for name in ("trip", ".thumbs", "folder.jpg"):
        (tmp_path / name).mkdir()
    for name in ("b.PNG", "trip/a.jpg", ".half.part.png", ".thumbs/c.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = list_photos(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.PNG", "trip/a.jpg"]
    assert list_photos(found[1:]) == found[1:]


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ("", "no photos in"),
        ([], "no photos in"),
        ("gone", "is not a folder of photos"),
        (["x.png"], r"photo .*x\.png does not exist"),
    ],
)
def test_no_photos(tmp_path: Path, photos: str | list[str], message: str) -> None:
    given = tmp_path / photos if isinstance(photos, str) else [tmp_path / name for name in photos]
    with pytest.raises(DataError, match=message):
        list_photos(given)


def test_a_photo_is_read_upright(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "turned.png"), np.rot90(image, -1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="is not an image"):
        read_photo(tmp_path / "bad.png")
