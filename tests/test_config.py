"""The strict config reader, and what ``except`` clauses can rely on in the error tree."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from sam_diffsr import errors
from sam_diffsr.config import check_choice, check_fields, flatten, from_dict, to_dict
from sam_diffsr.errors import ConfigError, SamDiffsrError

Colour = Literal["red", "green"]


@dataclass(frozen=True)
class Inner:
    width: int = 3
    ratio: float = 0.5
    colour: Colour = "red"
    level: Literal[2, 4] = 2


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    limit: int | None = None
    start: int | str = "auto"
    exact: bool = False
    boxes: tuple[tuple[int, int], ...] = ()


FULL = Outer("x", Inner(5, 0.25, "green", 4), (7, 8, 9), (2, "b"), 11, 12, True, ((1, 2), (3, 4)))


@pytest.mark.parametrize("config", [Outer("x"), FULL, Outer("x", sizes=(), start="late")])
def test_round_trip_through_json(config: Outer):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_every_field_is_written_out():
    written = to_dict(Outer("x"))
    assert set(written) == {field.name for field in dataclasses.fields(Outer)}
    assert written["inner"] == {"width": 3, "ratio": 0.5, "colour": "red", "level": 2}
    assert written["sizes"] == [1, 2]


def test_absent_keys_take_the_defaults_of_the_dataclass():
    assert from_dict(Outer, {"name": "x", "inner": {"width": 9}}) == Outer("x", Inner(width=9))


def test_reading_leaves_the_input_alone():
    data = {"name": "x", "inner": {"width": 9}, "sizes": [4]}
    before = json.dumps(data)
    from_dict(Outer, data)
    assert json.dumps(data) == before


def test_integers_pass_as_floats():
    ratio = from_dict(Inner, {"ratio": 2}).ratio
    assert ratio == 2.0
    assert isinstance(ratio, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "config must be a mapping of keys to values, got list"),
        (None, "config must be a mapping of keys to values, got NoneType"),
        ({}, r"config lacks the required keys \['name'\]"),
        (
            {"name": "x", "nmae": 1, "b": 2},
            r"unknown keys \['b', 'nmae'\] \(did you mean 'name' instead of 'nmae'\?\); known are \[",
        ),
        ({"name": "x", 3: 4}, r"unknown keys \['3'\]; known are"),
        ({"name": 3}, r"config\.name must be str, got 3"),
        ({"name": "x", "exact": 1}, r"config\.exact must be bool, got 1"),
        ({"name": "x", "inner": 4}, r"config\.inner must be a mapping of keys to values, got int"),
        (
            {"name": "x", "inner": {"widht": 4}},
            r"config\.inner has unknown keys \['widht'\] \(did you mean 'width' instead of 'widht'\?\)",
        ),
        ({"name": "x", "inner": {"width": "4"}}, r"config\.inner\.width must be int, got '4'"),
        ({"name": "x", "inner": {"width": 4.0}}, r"config\.inner\.width must be int, got 4\.0"),
        ({"name": "x", "inner": {"width": True}}, r"config\.inner\.width must be int, got True"),
        ({"name": "x", "inner": {"ratio": "0.5"}}, r"config\.inner\.ratio must be float, got '0\.5'"),
        ({"name": "x", "inner": {"ratio": False}}, r"config\.inner\.ratio must be float, got False"),
        ({"name": "x", "inner": {"colour": "blue"}}, r"colour must be one of red, green; got 'blue'"),
        ({"name": "x", "inner": {"level": 3}}, r"level must be one of 2, 4; got 3"),
        ({"name": "x", "inner": {"level": 2.0}}, r"level must be one of 2, 4; got 2\.0"),
        ({"name": "x", "sizes": 4}, r"config\.sizes must be a list, got 4"),
        ({"name": "x", "sizes": "12"}, r"config\.sizes must be a list, got '12'"),
        ({"name": "x", "sizes": [1, "2"]}, r"config\.sizes\[1\] must be int, got '2'"),
        ({"name": "x", "pair": [1]}, r"config\.pair must have 2 entries, got 1"),
        ({"name": "x", "pair": [1, 2]}, r"config\.pair\[1\] must be str, got 2"),
        ({"name": "x", "boxes": [[1, 2], [3]]}, r"config\.boxes\[1\] must have 2 entries, got 1"),
        ({"name": "x", "limit": "many"}, r"config\.limit must be int, got 'many'"),
        ({"name": "x", "start": 1.5}, r"start must be int, got 1\.5; or config\.start must be str, got 1\.5"),
        ({"name": "x", "start": None}, r"config\.start must be int, got None"),
    ],
)
def test_bad_values_are_named(data: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, data)


def test_the_caller_names_the_file():
    with pytest.raises(ConfigError, match=r"model/config\.json: model\.width must be int"):
        from_dict(Inner, {"width": []}, where="model/config.json: model")


@pytest.mark.parametrize("value", [[], {}, [4]])
def test_unhashable_values_for_a_choice(value: Any):
    with pytest.raises(ConfigError, match=r"colour must be one of"):
        from_dict(Inner, {"colour": value})


def test_booleans_are_no_integers_in_a_choice():
    @dataclass(frozen=True)
    class Switch:
        level: int = 1

    with pytest.raises(ConfigError, match="level must be int, got True"):
        from_dict(Switch, {"level": True})


def test_check_choice():
    check_choice("red", Colour, what="colour")
    check_choice(np.str_("red"), Colour, what="colour")
    with pytest.raises(ConfigError, match="colour must be one of red, green; got 'blue'"):
        check_choice("blue", Colour, what="colour")


def test_check_fields():
    check_fields(Outer("x"), "outer.", {"limit": "[1, 9]"})  # None is in range
    check_fields(FULL, "outer.", {"limit": "[11, 11]"})
    check_fields(FULL, "outer.", {"limit": "(10, inf]"})
    check_fields(dataclasses.replace(FULL, sizes=[0.5, 1]), "outer.", {"sizes": "[0.5, 1]"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"outer\.limit must be >= 12 or null, got 11"):
        check_fields(FULL, "outer.", {"limit": "[12, inf)"})
    with pytest.raises(ConfigError, match=r"inner\.level must be one of 2, 4; got 3"):
        check_fields(Inner(level=3), "inner.", {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"inner\.ratio must be >= 0, got nan"):
        check_fields(Inner(ratio=float("nan")), "inner.", {"ratio": "[0, inf)"})


@pytest.mark.parametrize("name", [name for name, kind in vars(errors).items() if isinstance(kind, type)])
def test_every_error_is_caught_by_the_base_class(name: str):
    kind = getattr(errors, name)
    with pytest.raises(SamDiffsrError, match="why"):
        raise kind("why")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.ArgumentError, ValueError),
        (errors.ImageError, ValueError),
        (errors.ImageTooLargeError, errors.ImageError),
        (errors.DataError, ValueError),
        (errors.ModelLoadError, OSError),
        (errors.CheckpointMismatchError, errors.ModelLoadError),
        (errors.OutputError, OSError),
        (errors.NumericalError, RuntimeError),
        (errors.DeviceMemoryError, RuntimeError),
        (errors.CancelledError, RuntimeError),
        (errors.MissingDependencyError, ImportError),
    ],
)
def test_errors_are_also_what_a_caller_expects(kind: type[Exception], builtin: type[Exception]):
    assert issubclass(kind, builtin)
    assert issubclass(kind, SamDiffsrError)


def test_flat_keys_have_dots() -> None:
    @dataclass(frozen=True)
    class Outer:
        inner: Inner = field(default_factory=Inner)
        sizes: tuple[int, ...] = (1, 2)
        other: Inner | None = None

    assert flatten(Outer(Inner(width=4))) == {
        "inner.width": 4,
        "inner.ratio": 0.5,
        "inner.colour": "red",
        "inner.level": 2,
        "sizes": [1, 2],
        "other": None,
    }
