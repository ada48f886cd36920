"""The container and the Space start the page as it is."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.cli.app import build_parser

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_container_starts_the_command_without_root():
    text = (EXAMPLES / "docker" / "Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    command, *words = json.loads(entry)
    args = build_parser().parse_args(words)
    assert (command, args.command, args.host) == ("sam-diffsr", "app", "0.0.0.0")
    assert text.index("USER app") < text.index("ENTRYPOINT")


def test_the_container_builds_the_package_from_what_it_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    builder = pytest.importorskip("hatchling.build")
    text = (EXAMPLES / "docker" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *names, folder = line.split()
        for source in (EXAMPLES.parent / name for name in names):
            target = tmp_path / folder.strip("/") / ("" if source.is_dir() else source.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    monkeypatch.chdir(tmp_path / "source")
    assert builder.prepare_metadata_for_build_wheel(str(tmp_path)).startswith("sam_diffsr-")


def test_the_space_builds_the_page_of_what_it_requires(monkeypatch: pytest.MonkeyPatch):
    gradio = pytest.importorskip("gradio")
    space, folders = EXAMPLES / "space", list[Any]()
    assert "app_file: app.py" in (space / "README.md").read_text().split("---")[1]
    assert (space / "requirements.txt").read_text().split() == ["sam-diffsr[app]"]
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(gradio.Blocks, "launch", lambda page: folders.append(page.GRADIO_CACHE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam_diffsr.app.page.build_page", lambda worker: gradio.Blocks())  # imports the page
        patch.setattr("sam_diffsr.app.worker.Worker", lambda folder, **options: folders.append(str(folder)))
        runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert folders[0] == folders[1]
