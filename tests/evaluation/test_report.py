"""Text and JSON output."""

from __future__ import annotations

import json
import os

import pytest

from sam_diffsr.errors import OutputError
from sam_diffsr.evaluation.report import outline, text_table, write_json, write_text


def test_table_is_aligned_and_reads_as_markdown() -> None:
    lines = text_table(["method", "dB"], [["bicubic", "27.1"], ["model", "128.25"]]).splitlines()
    assert lines == [
        "| method  |     dB |",
        "| ------- | -----: |",
        "| bicubic |   27.1 |",
        "| model   | 128.25 |",
    ]


def test_outline() -> None:
    data = {
        "step_ratio": 0.5,
        "machine": {"mps": False},
        "models": [{"name": "a", "start": None}],
        "none": [],
    }
    assert outline(data).splitlines() == [
        "step ratio: 0.5",
        "machine:",
        "  mps: no",
        "models:",
        "  - name a, start none",
        "none: none",
    ]


def test_json_is_written_whole_and_alone(tmp_path) -> None:
    target = tmp_path / "new" / "result.json"
    write_json(target, {"a": 1})
    write_json(target, {"a": 2})
    assert json.loads(target.read_text()) == {"a": 2}
    assert os.listdir(target.parent) == ["result.json"]


def test_json_leaves_nothing_behind_when_it_fails(tmp_path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*taken"):
        write_json(target, {"a": 1})
    assert os.listdir(tmp_path) == ["taken"]


def test_json_refuses_values_that_are_not_json(tmp_path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "x.json", {"a": object()})
    assert os.listdir(tmp_path) == []


def test_text_is_written_whole(tmp_path) -> None:
    write_text(tmp_path / "a" / "x.csv", "é\n")
    assert (tmp_path / "a" / "x.csv").read_text(encoding="utf-8") == "é\n"
    with pytest.raises(OutputError, match=r"cannot write .*a"):
        write_text(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == ["a"]
