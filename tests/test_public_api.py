"""Rules for every name: documented, no swallowed arguments; frozen configs, one error tree, sorted lists."""

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
    """The functions and classes that a module owns and does not hide."""
    for name, value in vars(module).items():
        own = isinstance(value, (FunctionType, type)) and value.__module__ == module.__name__
        if own and not name.startswith("_"):
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


@pytest.fixture(scope="module")
def modules() -> list[ModuleType]:
    return [importlib.import_module(name) for name in MODULES]


def test_subpackages_list_their_names_sorted(modules: list[ModuleType]):
    for module in modules:
        assert module.__doc__, module.__name__
        assert hasattr(module, "__all__") or not hasattr(module, "__path__"), module.__name__
        listed = getattr(module, "__all__", [])
        assert listed == sorted(set(listed), key=isort_key), module.__name__
        for name in listed:
            assert getattr(module, name) is not None


def test_public_names_are_documented(modules: list[ModuleType]):
    for module in modules:
        for name, value in public(module):
            generated = dataclasses.is_dataclass(value) and (value.__doc__ or "").startswith(f"{name}(")
            assert value.__doc__, f"{module.__name__}.{name}"
            assert not generated, f"{module.__name__}.{name}"
            for function in functions(value):
                if function.__name__ != "__init__":
                    assert function.__doc__, f"{module.__name__}.{function.__qualname__}"


def test_no_argument_is_swallowed_and_no_default_is_mutable(modules: list[ModuleType]):
    for module, value in ((each, value) for each in modules for _, value in public(each)):
        if getattr(value, "_is_protocol", False):
            continue  # it describes a function that others wrote
        for function in functions(value):
            for parameter in inspect.signature(function).parameters.values():
                where = f"{module.__name__}.{function.__qualname__}({parameter})"
                typed = "Unpack[" in str(parameter.annotation)  # a TypedDict names the keywords
                assert parameter.kind is not parameter.VAR_KEYWORD or typed, where
                assert not isinstance(parameter.default, (list, dict, set)), where


def test_options_are_keyword_only(modules: list[ModuleType]):
    for module, value in ((each, value) for each in modules for _, value in public(each)):
        for function in functions(value):
            if dataclasses.is_dataclass(value) and function.__name__ == "__init__":
                continue
            parameters = [
                p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
            ]
            for parameter in parameters[2:]:
                optional = parameter.default is not parameter.empty
                positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
                where = f"{module.__name__}.{function.__qualname__}: {parameter.name}"
                assert not (optional and positional), where


def test_configs_are_frozen(modules: list[ModuleType]):
    for name, value in (entry for module in modules for entry in public(module)):
        if isinstance(value, type) and dataclasses.is_dataclass(value) and name.endswith("Config"):
            field = dataclasses.fields(value)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(object.__new__(value), field, None)


def test_errors_live_in_one_tree(modules: list[ModuleType]):
    for module in modules:
        for name, value in vars(module).items():
            if not (inspect.isclass(value) and issubclass(value, Exception)):
                continue
            if value.__module__ == module.__name__:
                assert module.__name__ == "sam_diffsr.errors", f"{name} belongs into sam_diffsr.errors"
                assert issubclass(value, SamDiffsrError)
                builtin = [base for base in value.__mro__ if base.__module__ == "builtins"]
                assert value is SamDiffsrError or builtin[0] is not Exception, f"{name} is no built-in error"


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


def test_source_rules():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path}: assert checks no user input"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path
        bare = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]
        assert not bare, f"{path}: bare except on lines {bare}"
        assert len(tree.body) < 2 or "from __future__ import annotations" in text, path
