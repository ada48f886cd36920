"""What the documents say is true: code runs, commands parse, links and equations lead to what they name."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sam_diffsr
from sam_diffsr.cli.app import build_parser

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ("small", "photo", "base")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (
        ".",
        ".github",
        "docs",
        "examples",
        "tests/golden",
        *(f"sam_diffsr/weights/sam-diffsr-x4-{name}" for name in BUNDLED),
    )
    for path in (ROOT / folder).glob("*.md")
)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"commands\.md|api/\w+\.md")
"""Pages that ``docs/hooks.py`` makes; ``mkdocs build`` checks links to them."""
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for found, code in FENCED.findall(read(page)) if found == language]


def lone_commands() -> list[str]:
    return [code.strip() for code in blocks("README.md", "sh") if code.count("\n") == 1]


def test_every_block_of_the_readme_runs_in_order(tmp_path: Path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "examples", checkout / "examples")
    # The environment of the tests stands for the one that the README makes, and installs nothing.
    tools = checkout / ".venv" / "bin"
    tools.mkdir(parents=True)
    commands = {"python": "", "pip": "", "sam-diffsr": "-m sam_diffsr"}
    for name, module in commands.items():
        action = "exit 0" if name == "pip" else f'exec {shlex.quote(sys.executable)} {module} "$@"'
        (tools / name).write_text(f"#!/bin/sh\n{action}\n")
        (tools / name).chmod(0o755)
    (tools / "activate").touch()
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    for language, code in FENCED.findall(read("README.md")):
        if "-m pytest" in code:
            continue
        code = code.replace("python3 -m venv .venv && ", "").replace(
            "sam-diffsr app", "sam-diffsr app --help"
        )
        interpreter = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*interpreter, code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert Image.open(checkout / "large.png").size == (448, 296)
    assert Image.open(checkout / "upscaled" / "chelsea_lr_out.png").size == (448, 296)
    assert Image.open(checkout / "textured.png").size == (224, 148)
    assert len(list((checkout / "photos5").iterdir())) == 5


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= 120


def test_the_two_commands_for_a_fresh_machine():
    first, second = (command for command in lone_commands() if command.startswith("python3 -m venv"))
    assert first == (
        "python3 -m venv .venv && .venv/bin/pip install . && "
        ".venv/bin/sam-diffsr upscale -i examples/chelsea_lr.png -o chelsea_x4.png"
    )
    assert second == (
        'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]" && .venv/bin/python -m pytest'
    )


COMMANDS = sorted(
    {
        command.group(1)
        for page in PAGES
        for code in blocks(page, "sh")
        for command in re.finditer(
            r"(?:^|/|&& )sam-diffsr (.+?)(?: &&| [<>] |$)", code.replace("\\\n", " "), re.MULTILINE
        )
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str):
    parser, words = build_parser(), shlex.split(command, comments=True)
    parser.parse_args(words if words[0] in (*parser.commands, "--help") else ["upscale", *words])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    for link in LINK.finditer(read(page)):
        target = link["target"].partition("#")[0]
        if target and "://" not in target and not GENERATED.fullmatch(target):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {link[0]}"


@pytest.mark.parametrize("name", BUNDLED)
def test_cards_of_the_bundled_models_end_with_their_notes(name: str):
    notes = (ROOT / "examples" / "lab" / f"{name}_notes.md").read_text(encoding="utf-8")
    card = read(f"sam_diffsr/weights/sam-diffsr-x4-{name}/README.md")
    assert card.endswith("\n\n" + notes.strip() + "\n")


def defined(tree: ast.Module) -> set[str]:
    """Functions and classes of a module, and methods as ``Class.method``."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(
    ("page", "at_least"), [("docs/method.md", 26), ("docs/training.md", 2), ("docs/evaluation.md", 3)]
)
def test_links_to_functions_lead_to_the_files_that_define_them(page: str, at_least: int):
    links = [link for link in LINK.finditer(read(page)) if link["target"].startswith("../sam_diffsr/")]
    named = [link for link in links if re.fullmatch(r"`[A-Za-z_.0-9]+`", link["text"])]
    assert len(named) >= at_least
    for link in named:
        source = (ROOT / "docs" / link["target"]).read_text(encoding="utf-8")
        names = defined(ast.parse(source)) | {Path(link["target"]).stem}
        assert link["text"].strip("`") in names, link[0]


def test_package_pictures_lead_to_the_repository_once_it_is_known():
    pytest.importorskip("hatchling")
    hook = runpy.run_path(str(ROOT / ".github" / "release_metadata.py"))
    text = read("README.md")
    assert hook["absolute"](text, "") == text
    published = hook["absolute"](text, "https://example.org/us")
    assert "](https://example.org/us/raw/main/docs/images/hero.webp)" in published
    assert "](https://example.org/us/blob/main/docs/method.md)" in published
    assert [link for link in LINK.finditer(published) if "://" not in link["target"]] == []


def test_changelog_has_a_section_for_this_version():
    sections = re.findall(r"^## \[([^\]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert sam_diffsr.__version__ in sections


def test_version_is_written_once():
    version = re.escape(sam_diffsr.__version__)
    written = [
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "pyproject.toml", *(ROOT / "sam_diffsr").rglob("*.py")]
        if re.search(rf"version[\w]*\s*[:=]\s*[\"']?{version}\b", path.read_text(encoding="utf-8"))
    ]
    assert written == ["sam_diffsr/__init__.py"]


def test_citation_names_this_version():
    assert re.findall(r"^version: (\S+)$", read("CITATION.cff"), re.MULTILINE) == [sam_diffsr.__version__]
