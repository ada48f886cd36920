"""Rules for every public name: listed, documented, no swallowed arguments; frozen configs, one error tree."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import sam_diffsr
from sam_diffsr.errors import SamDiffsrError

PACKAGE = Path(sam_diffsr.__file__).parent
NAMES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], "sam_diffsr.")
    if not info.name.rpartition(".")[2].startswith("_")
)
MODULES = ["sam_diffsr", *NAMES]
SOURCES = sorted(PACKAGE.rglob("*.py"))


def isort_key(name: str) -> tuple[int, list[Any]]:
    """Constants, then classes, then the rest, each in natural order, as ruff sorts ``__all__``."""
    plain = name.replace("_", "")
    group = 0 if plain.isupper() and len(plain) > 1 else 1 if name[0].isupper() else 2
    return group, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a module lists and owns."""
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, (FunctionType, type)) and value.__module__ == module.__name__:
            yield name, value


def functions(value: Any) -> Iterator[FunctionType]:
    """A function itself, or the functions that a class of ours defines."""
    if isinstance(value, FunctionType):
        yield value
        return
    for member in vars(value).values():
        raw = getattr(member, "__func__", getattr(member, "fget", member))
        written_here = isinstance(raw, FunctionType) and raw.__code__.co_filename.startswith(str(PACKAGE))
        if written_here and (not raw.__name__.startswith("_") or raw.__name__ == "__init__"):
            yield raw


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_module_lists_its_names_sorted(module: ModuleType):
    assert module.__doc__
    listed = module.__all__
    assert listed == sorted(set(listed), key=isort_key)
    for name in listed:
        assert getattr(module, name) is not None


def test_public_names_are_documented(module: ModuleType):
    for name, value in public(module):
        if value.__doc__ is None or (
            dataclasses.is_dataclass(value) and value.__doc__.startswith(f"{name}(")
        ):
            pytest.fail(f"{module.__name__}.{name} has no docstring")
        for function in functions(value):
            if function.__name__ != "__init__":
                assert function.__doc__, f"{module.__name__}.{function.__qualname__} has no docstring"


def test_no_argument_is_swallowed(module: ModuleType):
    for _, value in public(module):
        if getattr(value, "_is_protocol", False):
            continue  # it describes a function that others wrote
        for function in functions(value):
            for parameter in inspect.signature(function).parameters.values():
                where = f"{module.__name__}.{function.__qualname__}({parameter})"
                assert parameter.kind is not parameter.VAR_KEYWORD, where
                assert not isinstance(parameter.default, (list, dict, set)), f"mutable default: {where}"


def test_options_are_keyword_only(module: ModuleType):
    for _, value in public(module):
        for function in functions(value):
            if (
                isinstance(value, type)
                and dataclasses.is_dataclass(value)
                and function.__name__ == "__init__"
            ):
                continue
            parameters = [
                p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
            ]
            for parameter in parameters[2:]:
                positional_option = (
                    parameter.kind is parameter.POSITIONAL_OR_KEYWORD
                    and parameter.default is not parameter.empty
                )
                assert not positional_option, f"{module.__name__}.{function.__qualname__}: {parameter.name}"


def test_configs_are_frozen(module: ModuleType):
    for name, value in public(module):
        if not (isinstance(value, type) and dataclasses.is_dataclass(value) and name.endswith("Config")):
            continue
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(object.__new__(value), field, None)


def test_errors_live_in_one_tree(module: ModuleType):
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == module.__name__:
            assert module.__name__ == "sam_diffsr.errors", f"{name} belongs into sam_diffsr.errors"
            assert issubclass(value, SamDiffsrError)
            if value is not SamDiffsrError:
                builtin = [base for base in value.__mro__ if base.__module__ == "builtins"]
                assert builtin[0] is not Exception, f"{name} is no built-in error beside"


def test_top_level_names():
    assert {"SuperResolver", "ResolverConfig", "ModelConfig", "ScheduleConfig", "SamDiffsrError"} <= set(
        sam_diffsr.__all__
    )
    assert set(sam_diffsr.__all__) <= set(dir(sam_diffsr))
    assert re.fullmatch(r"\d+\.\d+\.\d+([.a-z]+\d+)?", sam_diffsr.__version__)


def test_unknown_top_level_name():
    with pytest.raises(AttributeError, match="module 'sam_diffsr' has no attribute 'Upscaler'"):
        _ = sam_diffsr.Upscaler  # pyright: ignore[reportAttributeAccessIssue]


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_source_rules(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)], (
        "assert checks no user input"
    )
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    bare = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert not bare, f"bare except on lines {bare}"
    if len(tree.body) > 1:
        assert "from __future__ import annotations" in text
