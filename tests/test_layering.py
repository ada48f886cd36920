"""Import order: a module imports strictly lower ranks or its own subpackage, and heavy libraries late."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sam_diffsr

PACKAGE = Path(sam_diffsr.__file__).parent

RANKS = {
    "errors": -1,
    "files": 0,
    "arguments": 1,
    "cluster": 1,
    "config": 1,
    "device": 1,
    "hub": 1,
    "image": 1,
    "resize": 1,
    "stores": 1,
    "overlap": 1,
    "progress": 1,
    "models": 2,
    "masks": 2,
    "diffusion": 3,
    "data": 3,
    "pipeline": 4,
    "training": 5,
    "evaluation": 5,
    "distributed": 5,
    "video": 5,
    "app": 6,
    "bench": 6,
    "cli": 7,
    "__main__": 8,
}
MASK_USERS = {"masks", "data", "distributed", "bench", "cli"}
# Imported inside the function that needs them, never when a module is loaded ...
LATE = {
    "accelerate",
    "huggingface_hub",
    "lpips",
    "pyarrow",
    "ray",
    "segment_anything",
    "skimage",
    "sklearn",
    "tensorboard",
    "torch_fidelity",
    "torchvision",
    "tqdm",
    "yaml",
}
# ... and these in one place only.
ONLY_IN = {
    "av": "video.py",
    "segment_anything": "masks/sam_model.py",
    "torchvision": "masks/sam_model.py",
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and lateness (inside a function or for type checkers only) of every import."""

    def called(node: ast.Call) -> str:
        return getattr(node.func, "attr", getattr(node.func, "id", ""))

    def visit(node: ast.AST, late: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            separator = "" if prefix.endswith(".") else "."
            yield from ((node.lineno, f"{prefix}{separator}{alias.name}", late) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from (
                (node.lineno, str(arg.value), late) for arg in node.args if isinstance(arg, ast.Constant)
            )
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = late or typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree, False)


def violations(package: Path) -> list[str]:
    """Every import below ``package`` that breaks the rules, as ``file:line: reason``."""
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        owner = relative.parts[0].removesuffix(".py")
        is_root = relative.parts == ("__init__.py",)
        if not is_root and owner not in RANKS:
            found.append(f"{relative}: {owner} has no rank")
            continue
        for line, name, late in imports(ast.parse(path.read_text(encoding="utf-8"))):
            reason = _reason(relative, owner, is_root, name, late)
            if reason:
                found.append(f"{relative}:{line}: {reason}")
    return found


def _reason(relative: Path, owner: str, is_root: bool, name: str, late: bool) -> str | None:
    top, _, rest = name.partition(".")
    if name.startswith("."):
        return f"relative import {name}"
    if top != PACKAGE.name:
        if top in ONLY_IN and relative.as_posix() != ONLY_IN[top]:
            return f"only {ONLY_IN[top]} may import {top}"
        return f"{top} must be imported inside a function" if top in LATE and not late else None
    if is_root:
        return None if late else f"the package root loads {name} at import"
    target = rest.partition(".")[0]
    if target in ("", "__version__"):
        return None
    if target not in RANKS:
        return f"{target} must be imported from the module that owns it"
    if target == owner:
        return None
    if target == "masks" and owner not in MASK_USERS:
        return f"{owner} may not know of masks"
    if RANKS[target] >= RANKS[owner]:
        return f"{owner} (rank {RANKS[owner]}) imports {target} (rank {RANKS[target]})"
    return None


def test_package_keeps_its_order():
    assert violations(PACKAGE) == []


def test_every_rank_is_in_use():
    present = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(RANKS) - present <= {"__main__"}


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        (
            "models/unet.py",
            "import sam_diffsr.pipeline.resolver",
            r"models \(rank 2\) imports pipeline \(rank 4\)",
        ),
        ("models/unet.py", "from sam_diffsr.masks import rle", "models may not know of masks"),
        (
            "diffusion/modulation.py",
            "def f():\n    from sam_diffsr.masks.spe import x",
            "may not know of masks",
        ),
        ("evaluation/evaluate.py", "from sam_diffsr import training", r"imports training \(rank 5\)"),
        ("evaluation/evaluate.py", "from sam_diffsr import bench", r"imports bench \(rank 6\)"),
        ("image.py", "from sam_diffsr.resize import imresize", r"image \(rank 1\) imports resize \(rank 1\)"),
        ("errors.py", "from sam_diffsr import config", r"errors \(rank -1\) imports config \(rank 1\)"),
        ("training/loop.py", "from .state import State", r"relative import \.state"),
        ("training/loop.py", "from . import state", r"relative import \.state"),
        (
            "training/loop.py",
            "from sam_diffsr import SuperResolver",
            "SuperResolver must be imported from the module",
        ),
        ("models/unet.py", "import importlib\nimportlib.import_module('sam_diffsr.cli')", "imports cli"),
        (
            "models/unet.py",
            "if True:\n    import sam_diffsr.cli",
            r"unet.py:2: models \(rank 2\) imports cli",
        ),
        ("hub.py", "import huggingface_hub", "huggingface_hub must be imported inside a function"),
        (
            "data/prepare.py",
            "def f():\n    import torchvision",
            "only masks/sam_model.py may import torchvision",
        ),
        (
            "masks/sam_model.py",
            "from segment_anything import Sam",
            "segment_anything must be imported inside a function",
        ),
        ("__init__.py", "from sam_diffsr.pipeline import SuperResolver", "the package root loads"),
        ("extra/new.py", "", "extra has no rank"),
    ],
)
def test_planted_violations_are_caught(tmp_path: Path, file: str, source: str, reason: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    found = violations(tmp_path)
    assert len(found) == 1
    assert re.search(reason, found[0])


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "models/unet.py",
            "from sam_diffsr.models.layers import Block\nfrom sam_diffsr.errors import ConfigError",
        ),
        (
            "training/loop.py",
            "from sam_diffsr.pipeline import SuperResolver\nfrom sam_diffsr import __version__",
        ),
        ("data/prepare.py", "from sam_diffsr.masks.spe import encode_label_map\nimport numpy"),
        ("hub.py", "def f():\n    import huggingface_hub"),
        ("masks/sam_model.py", "def f():\n    import segment_anything"),
        (
            "masks/sam_model.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import segment_anything",
        ),
    ],
)
def test_lawful_imports_pass(tmp_path: Path, file: str, source: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []
