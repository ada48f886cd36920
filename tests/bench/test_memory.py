"""Memory is measured in a process of its own, which runs the public interface only."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import sam_diffsr.bench.upscaling as upscaling
from sam_diffsr.bench import measure_memory, probe
from sam_diffsr.errors import ArgumentError, OutputError


def test_one_process_per_size(resolver, monkeypatch) -> None:
    seen: list[dict] = []

    def fake(resolver, *, size, options):
        seen.append({"size": size, **options})
        return {"before_mb": 100.0, "peak_mb": 100.0 + size, "seconds": 0.5}

    monkeypatch.setattr(upscaling, "run_probe", fake)
    result = measure_memory(resolver, sizes=[8, 16], tile=4, max_memory=2**30)
    assert seen == [{"size": size, "tile": 4, "max_memory": 2**30} for size in (8, 16)]
    rows: Any = result.tables["memory"]
    assert [row["used_mb"] for row in rows] == [8, 16]
    assert rows[0]["seconds_per_megapixel"] == pytest.approx(0.5 / (32**2 / 1e6), rel=1e-3)


def test_a_system_that_does_not_tell(resolver, monkeypatch) -> None:
    answer = {"before_mb": None, "peak_mb": None, "seconds": 0.5}
    monkeypatch.setattr(upscaling, "run_probe", lambda resolver, *, size, options: answer)
    result = measure_memory(resolver, sizes=[8])
    assert result.tables["memory"][0]["used_mb"] is None
    assert "not measured" in result.text()


@pytest.mark.parametrize("sizes", [[], [0], [16, 8], [8, 8]])
def test_sizes_that_do_not_grow(resolver, sizes) -> None:
    with pytest.raises(ArgumentError, match="sizes must be sides >= 1 that grow"):
        measure_memory(resolver, sizes=sizes)


def test_the_probe_measures_a_process_of_its_own(resolver) -> None:
    answer: dict[str, Any] = upscaling.run_probe(resolver, size=16)
    assert answer["seconds"] > 0
    if probe.peak_mb(on_cuda=False) is not None:
        assert 50 < answer["before_mb"] <= answer["peak_mb"] < 3000


def test_the_probe_is_the_same_program_in_this_process(resolver, tmp_path: Path) -> None:
    resolver.save_pretrained(tmp_path / "model")
    answer: dict[str, Any] = probe.main(
        {
            "model": str(tmp_path / "model"),
            "size": 9,
            "threads": None,
            "init": {"device": "cpu"},
            "upscale": {},
        }
    )
    assert answer["seconds"] > 0


def test_the_probe_uses_the_public_interface_only() -> None:
    tree = ast.parse(Path(probe.__file__).read_text(encoding="utf-8"))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or ".")
    assert [name for name in names if name.startswith(("sam_diffsr", "."))] == ["sam_diffsr"]


def test_a_process_that_fails(resolver) -> None:
    with pytest.raises(OutputError, match=r"the measured process failed: .*max_memory"):
        upscaling.run_probe(resolver, size=16, options={"max_memory": 1})
