"""A folder is compared with its own files."""

from __future__ import annotations

import numpy as np
import pytest

from sam_diffsr.bench import measure_folder, upscaling
from sam_diffsr.errors import ArgumentError, OutputError


def test_a_folder_against_its_files(resolver) -> None:
    result = measure_folder(resolver, files=3, size=8, repeats=1)
    for kind in ("folder", "mixed_folder"):
        assert result.figures[f"{kind}_speedup"] == pytest.approx(
            result.seconds[f"{kind}_one_by_one"] / result.seconds[kind]
        )
        assert result.figures[f"{kind}_images_per_hour"] == pytest.approx(3 * 3600 / result.seconds[kind])


@pytest.mark.parametrize("options", [{"files": 0}, {"size": 7}, {"repeats": 0}])
def test_a_folder_out_of_range(resolver, options) -> None:
    with pytest.raises(ArgumentError, match=r"(files|size|repeats) must be >= (1|8), got (0|7)"):
        measure_folder(resolver, **options)


def test_a_failed_file_ends_the_measurement(resolver, monkeypatch) -> None:
    def fail(image, **options):
        raise OutputError("the disk is full")

    monkeypatch.setattr(resolver, "upscale", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        measure_folder(resolver, files=1, size=8, repeats=1)


def test_a_made_up_photo_has_structure() -> None:
    photo = upscaling._made_up_photo(36, 24)
    assert (photo.mode, photo.size) == ("RGB", (36, 24))
    assert np.ptp(np.asarray(photo)) > 50
