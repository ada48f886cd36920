"""Reads a run's configuration from YAML files, presets and overrides, and writes it as YAML."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.errors import ConfigError, MissingDependencyError
from sam_diffsr.training.config import TrainConfig

_PRESETS = Path(__file__).resolve().parents[1] / "presets"
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$")
"""Numbers like ``2e-4``, which YAML 1.1 takes for text because they have no dot."""


def list_presets() -> dict[str, str]:
    """Names of the bundled configs, each with the first comment line of its file."""
    found: dict[str, str] = {}
    for path in sorted(_PRESETS.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.relative_to(_PRESETS).with_suffix("").as_posix()] = first.lstrip("# ")
    return found


def load_config(config: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config and its bases.

    A file may contain ``base: NAME``, where NAME is another file (relative to its own folder) or a preset.
    Its tables are merged over those of the base, key by key. Overrides are applied last.

    Args:
        config: YAML file, or the name of a preset (:func:`list_presets`).
        overrides: ``section.key=value``; values are parsed as YAML.

    Raises:
        ConfigError: a file cannot be read, is not a YAML mapping or is its own base; an override has no
            ``=``; or a key or value is wrong.
        MissingDependencyError: PyYAML is not installed.
    """
    tree = _read(os.fspath(config))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"an override must look like section.key=value, got {override!r}")
        *sections, key = dotted.split(".")
        table = tree
        for section in sections:
            held = table.get(section)  # null for a table that is left out
            table[section] = {} if held is None else _mapping(held, dotted)
            table = table[section]
        table[key] = _parse(text, where=f"the value of override {override!r}")
    return from_dict(TrainConfig, tree, where=os.fspath(config))


def config_to_yaml(config: TrainConfig) -> str:
    """Write every value of a config as YAML that :func:`load_config` reads.

    Raises:
        MissingDependencyError: PyYAML is not installed.
    """
    return _yaml().safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("reading YAML needs PyYAML: pip install 'sam-diffsr[train]'") from error
    return yaml


def _read(name: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file or preset, merged over its base; ``above`` holds the files that led here."""
    path = _find(name, above)
    *files, here = (each.resolve() for each in (*above, path))
    if here in files:
        raise ConfigError(f"{path} is its own base: {' -> '.join(map(str, (*files, here)))}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8; expected YAML") from error
    tree = _mapping(_parse(text, where=str(path)), str(path))
    if (base := tree.pop("base", None)) is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be the name of a file or preset, got {base!r}")
    return _merge(_read(base, (*above, path)), tree)


def _find(name: str, above: tuple[Path, ...]) -> Path:
    """Find a file, relative to the file that names it, or else a preset."""
    path = (above[-1].parent if above else Path()) / Path(name).expanduser()
    if path.is_file():
        return path
    if name in (presets := list_presets()):
        return _PRESETS / f"{name}.yaml"
    close = difflib.get_close_matches(name, presets, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"presets are {', '.join(presets)}"
    asked = f", the base of {above[-1]}" if above else ""
    raise ConfigError(f"cannot read the config {name}{asked}: no such file or preset; {hint}")


def _parse(text: str, *, where: str) -> Any:
    """Parse YAML with numbers like ``2e-4``."""
    yaml = _yaml()
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("+-0123456789"))
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(error) if mark is None else f"{error.problem} in line {mark.line + 1}"
        raise ConfigError(f"{where} is not valid YAML: {problem}") from error


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into a copy of ``under``, table by table."""
    merged = dict(under)
    for key, value in over.items():
        before = under.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = _merge(cast("dict[str, Any]", before), cast("dict[str, Any]", value))
        merged[key] = value
    return merged


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        got = "nothing" if value is None else repr(value)[:60]
        raise ConfigError(f"{where}: expected a mapping of keys to values (key: value), got {got}")
    return dict(cast("Mapping[str, Any]", value))
