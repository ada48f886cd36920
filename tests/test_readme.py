"""What the documents say is true: code runs, commands parse, links and equations lead to what they name."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path

import pytest

import sam_diffsr
from sam_diffsr.cli.app import build_parser

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "examples" / "small_notes.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "examples", "tests/golden", "sam_diffsr/weights/sam-diffsr-x4-small")
    for path in (ROOT / folder).glob("*.md")
    if path != NOTES  # is looked at as the end of the card
)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for found, code in FENCED.findall(read(page)) if found == language]


def lone_commands() -> list[str]:
    return [code.strip() for code in blocks("README.md", "sh") if code.count("\n") == 1]


@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python_blocks_run_offline(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__readme__"})


def test_there_are_python_blocks():
    assert len(blocks("README.md", "python")) >= 2


def test_the_two_commands_for_a_fresh_machine():
    first, second = lone_commands()
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
            r"(?:^|/|&& )sam-diffsr (.+?)(?: &&|$)", code.replace("\\\n", " "), re.MULTILINE
        )
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str):
    build_parser().parse_args(shlex.split(command, comments=True))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    for link in LINK.finditer(read(page)):
        target = link["target"].partition("#")[0]
        if target and "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {link[0]}"


def test_card_of_the_bundled_model_ends_with_its_notes():
    card = read("sam_diffsr/weights/sam-diffsr-x4-small/README.md")
    assert card.endswith("\n\n" + NOTES.read_text(encoding="utf-8").strip() + "\n")


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
    ("page", "at_least"), [("docs/method.md", 26), ("docs/training.md", 2), ("docs/evaluation.md", 5)]
)
def test_links_to_functions_lead_to_the_files_that_define_them(page: str, at_least: int):
    links = [link for link in LINK.finditer(read(page)) if link["target"].startswith("../sam_diffsr/")]
    named = [link for link in links if re.fullmatch(r"`[A-Za-z_.]+`", link["text"])]
    assert len(named) >= at_least
    for link in named:
        source = (ROOT / "docs" / link["target"]).read_text(encoding="utf-8")
        assert link["text"].strip("`") in defined(ast.parse(source)), link[0]


def test_api_page_names_real_modules():
    for name in re.findall(r"^::: (\S+)$", read("docs/api.md"), re.MULTILINE):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


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
