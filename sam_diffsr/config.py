"""Strict conversion between frozen config dataclasses and plain dictionaries.

Every default is in its dataclass. Unknown keys and values of the wrong type are errors, so a misspelt key
never silently falls back to a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sam_diffsr.errors import ConfigError

__all__ = ["check_choice", "check_fields", "flatten", "from_dict", "to_dict"]

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into nested dictionaries of JSON values, with every field."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def flatten(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into one dictionary with dotted keys: ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{field.name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[field.name] = _plain(value)
    return flat


def from_dict(cls: type[ConfigT], data: Any, *, where: str = "config") -> ConfigT:
    """Build a dataclass from a mapping of its fields to JSON values; missing keys take the defaults.

    ``where`` names this level in error messages, such as ``"config.json: model"``.

    Raises:
        ConfigError: not a mapping, an unknown key, a required one missing, or a value of the wrong type or
            out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values, got {type(data).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = cast("Mapping[Any, Any]", data)
    unknown = sorted(str(key) for key in given if key not in fields)
    if unknown:
        near = {key: difflib.get_close_matches(key, fields, n=1) for key in unknown}
        meant = ", ".join(f"{found[0]!r} instead of {key!r}" for key, found in near.items() if found)
        hint = f" (did you mean {meant}?)" if meant else ""
        raise ConfigError(f"{where} has unknown keys {unknown}{hint}; known are {sorted(fields)}")
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if missing:
        raise ConfigError(f"{where} lacks the required keys {missing}")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in given.items()}
    return cls(**values)


def check_fields(config: Any, table: str, least: Mapping[str, float]) -> None:
    """Raise ``ConfigError`` unless ``Literal`` fields hold one of their values and numbers are large enough.

    ``least`` has the smallest numbers by the names of fields; None is in range. Messages name fields after
    ``table``, such as ``"sampling."``.
    """
    for name, hint in get_type_hints(cast("type[Any]", type(config))).items():
        value = getattr(config, name)
        if value is None:
            continue
        for option in (hint, *get_args(hint)):
            if get_origin(option) is Literal:
                check_choice(value, option, what=f"{table}{name}")
        if name in least and not value >= least[name]:
            raise ConfigError(f"{table}{name} must be >= {least[name]}, got {value}")


def check_choice(value: str, choices: Any, *, what: str, error: type[Exception] = ConfigError) -> None:
    """Raise ``error`` unless ``value`` is one of a ``Literal``'s members."""
    allowed = get_args(choices)
    if value not in allowed:
        raise error(f"{what} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation; lists become tuples, integers pass as floats."""
    origin = get_origin(hint)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise ConfigError(f"{where} must be one of {list(get_args(hint))}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return _convert_tuple(get_args(hint), tuple(value), where)  # pyright: ignore[reportUnknownArgumentType]
    if dataclasses.is_dataclass(hint):
        return from_dict(cast("type[Any]", hint), value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    failures: list[str] = []
    for option in get_args(hint):
        if option is type(None):
            if value is None:
                return None
            continue
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            failures.append(str(error))
    raise ConfigError("; or ".join(failures))


def _convert_tuple(hints: tuple[Any, ...], values: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(values)
    if len(hints) != len(values):
        raise ConfigError(f"{where} must have {len(hints)} entries, got {len(values)}")
    return tuple(
        _convert(hint, value, f"{where}[{index}]")
        for index, (hint, value) in enumerate(zip(hints, values, strict=True))
    )
