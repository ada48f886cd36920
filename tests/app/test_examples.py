"""The container and the Space start the page as it is."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

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
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((EXAMPLES.parent / name).exists() for name in line.split())


def test_the_space_builds_the_page():
    pytest.importorskip("gradio")
    front = (EXAMPLES / "space" / "README.md").read_text().split("---")[1]
    assert "app_file: app.py" in front
    assert callable(runpy.run_path(str(EXAMPLES / "space" / "app.py"))["build_page"])
