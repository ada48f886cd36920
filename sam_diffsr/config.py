"""Strict conversion between frozen config dataclasses and plain dictionaries.

Every default is in its dataclass. Unknown keys and values of the wrong type are errors, so a misspelt key
never silently falls back to a default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sam_diffsr.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into nested dictionaries of JSON values, with every field."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into one dictionary with dotted keys: ``{"a.b": 1}``."""

    def pairs(data: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in data.items():
            if isinstance(value, dict):
                yield from pairs(cast("dict[str, Any]", value), f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(pairs(to_dict(config), ""))


def from_dict(cls: type[ConfigT], data: Any, *, where: str = "config") -> ConfigT:
    """Build a dataclass from a mapping of its fields to JSON values; missing keys take the defaults.

    A table that is given in part takes the rest from the default of its field.

    ``where`` names this level in error messages, such as ``"config.json: model"``.

    Raises:
        ConfigError: not a mapping, an unknown key, a required one missing, or a value of the wrong type or
            out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping of keys to values, got {type(data).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = cast("Mapping[Any, Any]", data)
    if unknown := sorted(str(key) for key in given if key not in fields):
        near = {key: difflib.get_close_matches(key, fields, n=1) for key in unknown}
        meant = ", ".join(f"{found[0]!r} instead of {key!r}" for key, found in near.items() if found)
        hint = f" (did you mean {meant}?)" if meant else ""
        raise ConfigError(f"{where} has unknown keys {unknown}{hint}; known are {sorted(fields)}")
    none = dataclasses.MISSING
    required = {name for name, field in fields.items() if field.default is field.default_factory is none}
    if missing := sorted(required - given.keys()):
        raise ConfigError(f"{where} lacks the required keys {missing}")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = fields[name]
        default = field.default if field.default_factory is none else field.default_factory()
        if isinstance(value, Mapping) and dataclasses.is_dataclass(default):
            value = {**to_dict(default), **cast("Mapping[Any, Any]", value)}
        values[name] = _convert(hints[name], value, f"{where}.{name}")
    return cls(**values)


def check_fields(
    config: Any, table: str, intervals: Mapping[str, str], *, error: type[Exception] = ConfigError
) -> None:
    """Raise ``error`` unless ``Literal`` fields hold one of their values and numbers are in range.

    ``intervals`` has the ranges by the names of fields, such as ``"[0, 1)"`` or ``"(0, inf)"``. Every number
    of a tuple must be in range; None always is. Messages name fields after ``table``: ``"sampling."``.
    """
    for name, hint in get_type_hints(cast("type[Any]", type(config))).items():
        value = getattr(config, name)
        if value is None:
            continue
        for option in (hint, *get_args(hint)):
            if get_origin(option) is Literal and not hasattr(value, "__dataclass_fields__"):
                check_choice(value, option, what=f"{table}{name}", error=error)
        if name in intervals:
            numbers = cast("list[Any]", value if isinstance(value, (tuple, list)) else [value])
            if not all(_is_inside(number, intervals[name]) for number in numbers):
                wanted = _in_words(intervals[name]) + " or null" * (type(None) in get_args(hint))
                raise error(f"{table}{name} must {wanted}, got {value}")


def _is_inside(number: Any, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(", "))
    above = low <= number if interval[0] == "[" else low < number
    return above and (number <= high if interval[-1] == "]" else number < high)


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    if high != "inf":
        return f"lie in {interval}"
    sign = ">=" if interval[0] == "[" else ">"
    return f"be {sign} {low}" + (" and finite" if interval[-1] == ")" and sign == ">" else "")


def check_choice(value: object, choices: Any, *, what: str, error: type[Exception] = ConfigError) -> None:
    """Raise ``error`` unless ``value`` is one of a ``Literal``'s members, and of its type."""
    allowed = get_args(choices)
    booleans = isinstance(value, bool)
    if not any(
        isinstance(value, type(choice)) and booleans == isinstance(choice, bool) and value == choice
        for choice in allowed
    ):
        raise error(f"{what} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation; lists become tuples, integers pass as floats."""
    origin = get_origin(hint)
    if origin is Literal:
        check_choice(value, hint, what=where)
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(cast("type[Any]", hint), value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _convert_union(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    failures: list[str] = []
    for hint in hints:
        try:
            return _convert(hint, value, where)
        except ConfigError as error:
            if hint is not type(None):
                failures.append(str(error))
    raise ConfigError("; or ".join(failures))


def _convert_tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    values = cast("list[Any]", value)
    if hints[1:] == (Ellipsis,):
        hints = (hints[0],) * len(values)
    if len(hints) != len(values):
        raise ConfigError(f"{where} must have {len(hints)} entries, got {len(values)}")
    pairs = enumerate(zip(hints, values, strict=True))
    return tuple(_convert(hint, item, f"{where}[{index}]") for index, (hint, item) in pairs)
