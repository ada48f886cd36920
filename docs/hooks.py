"""MkDocs hooks: generated reference pages, links into the API pages, and equations as MathML.

``on_files`` adds the command reference, one API page per subpackage and the script of evaluation's sliders,
so that they are never out of date.
``on_page_markdown`` turns links to source files, which serve readers of the repository, into API links.
``on_page_content`` turns TeX into MathML, which browsers draw without scripts, fonts or a network.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sam_diffsr.cli.app import manual

ROOT = Path(__file__).resolve().parents[1]
API = ("models", "masks", "diffusion", "data", "pipeline", "training", "evaluation", "bench", "image")
MODULES = ("video", "distributed", "resize", "errors")

_SOURCE = re.compile(r"\[`(?P<name>[A-Za-z_.0-9]+)`\]\(\.\./(?P<path>sam_diffsr(?:/\w+)+)\.py\)")
_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)]+)\)")
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_REPOSITORY = re.compile(r'^repository = "(.*)"', re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Link to the repository that ``pyproject.toml`` names, if it names one."""
    found = _REPOSITORY.search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    config.repo_url = config.repo_url or (found[1] if found else "") or None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the script; ``mkdocs.yml`` lists them."""
    pages = {"commands.md": f"# Commands\n\nGenerated from the program's own `--help`.\n\n{manual()}"}
    pages["api/index.md"] = _api_page("sam_diffsr")
    for name in (*API, *MODULES):
        pages[f"api/{name}.md"] = _api_page(f"sam_diffsr.{name}")
    slider = ROOT / "sam_diffsr" / "evaluation" / "slider.js"
    pages["assets/slider.js"] = slider.read_text(encoding="utf-8")
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Link ``[`name`](../sam_diffsr/x/y.py)`` to the API if it is public; other files are linked or named."""
    folder = posixpath.dirname(page.file.src_uri)

    def public(link: re.Match[str]) -> str:
        name = link["name"]
        subpackage = ".".join(link["path"].split("/")[:2])
        return f'<autoref optional identifier="{subpackage}.{name}"><code>{name}</code></autoref>'

    def outside(link: re.Match[str]) -> str:
        text, path = link["text"], posixpath.normpath(posixpath.join(folder, "..", link["path"]))
        if not path.startswith("../"):  # from one page to another
            return link[0]
        path = path.removeprefix("../")
        if config.repo_url:
            return f"[{text}]({config.repo_url}/blob/main/{path})"
        return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"

    return _OUTSIDE.sub(outside, _SOURCE.sub(public, markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Draw the equations of a page."""
    content = _INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return _DISPLAY.sub(
        lambda found: f'<div class="equation">{convert(html.unescape(found[1]), display="block")}</div>',
        content,
    )


def _api_page(module: str) -> str:
    return f"# {module}\n\n::: {module}\n"
