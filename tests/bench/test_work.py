"""A folder is compared with its own files; the start of a command is timed in new processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam_diffsr.bench import measure_folder, measure_start, work
from sam_diffsr.errors import ArgumentError, OutputError


def test_a_folder_against_its_files(resolver) -> None:
    result = measure_folder(resolver, files=3, size=8, repeats=1)
    for kind in ("folder", "mixed_folder"):
        assert result.figures[f"{kind}_speedup"] == pytest.approx(
            result.seconds[f"{kind}_one_by_one"] / result.seconds[kind]
        )


@pytest.mark.parametrize("options", [{"files": 0}, {"size": 7}, {"repeats": 0}])
def test_a_folder_out_of_range(resolver, options) -> None:
    with pytest.raises(ArgumentError, match="files and repeats must be >= 1 and size >= 8"):
        measure_folder(resolver, **options)


def test_a_failed_file_ends_the_measurement(resolver, monkeypatch) -> None:
    def fail(image, **options):
        raise OutputError("the disk is full")

    monkeypatch.setattr(resolver, "upscale", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        measure_folder(resolver, files=1, size=8, repeats=1)


def test_start(monkeypatch) -> None:
    asked: list[tuple[str, ...]] = []

    def fake(*arguments: str) -> str:
        asked.append(arguments)
        return "0.25"

    monkeypatch.setattr(work, "run_python", fake)
    figures: dict[str, Any] = dict(measure_start(repeats=2).figures)
    assert figures["import_seconds"] == figures["own_modules_seconds"] == 0.25
    assert figures["command_seconds"] > 0
    commands = [arguments for arguments in asked if arguments[0] == "-m"]
    assert commands[0][:3] == ("-m", "sam_diffsr", "upscale")
    with pytest.raises(ArgumentError, match="repeats must be >= 1, got 0"):
        measure_start(repeats=0)


def test_imports_are_timed_in_a_new_process() -> None:
    assert 0 <= work._import_seconds("import json", "import json") < 1


def test_a_made_up_photo_has_structure() -> None:
    photo = work._made_up_photo(36, 24)
    assert (photo.mode, photo.size) == ("RGB", (36, 24))
    assert np.ptp(np.asarray(photo)) > 50
