"""Seeds and numbers as users give them; unknown names are tested where they are used."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from sam_diffsr.arguments import is_integer, is_number, resolve_seeds
from sam_diffsr.errors import ArgumentError


def test_numbers_are_of_python_or_numpy_and_truth_values_are_none() -> None:
    for value in (3, np.int64(3), np.uint8(3)):
        assert is_integer(value)
        assert is_number(value)
    for value in (0.5, np.float32(0.5)):
        assert not is_integer(value)
        assert is_number(value)
    for value in (True, np.True_, "3", None):
        assert not is_integer(value)
        assert not is_number(value)


def test_every_image_has_a_seed():
    assert resolve_seeds(5, 3) == [5, 6, 7]
    assert resolve_seeds([9, 9], 2) == [9, 9]
    assert resolve_seeds([np.int64(2)], 1) == [2]  # type: ignore[list-item]
    assert resolve_seeds(np.array([7, 3]), 2) == [7, 3]
    assert resolve_seeds(np.array(7), 2) == [7, 8]
    assert resolve_seeds(4, 0) == []


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], r"one integer or 3 of them, one per image; got 2"),
        (-1, r"integers from 0 to 2\*\*63 - 1, got \[-1, 0, 1\]"),
        (2**63, r"integers from 0 to"),
        (None, r"integers from 0 to .*None"),
        (0.5, r"integers from 0 to .*0\.5"),
        (True, r"integers from 0 to .*True"),
        ("abc", r"integers from 0 to .*'a'"),
        (np.array([0.5, 1, 2]), r"integers from 0 to .*0\.5"),
        (np.zeros((3, 1), dtype=int), r"integers from 0 to .*\[0\]"),
        (np.arange(2), r"one integer or 3 of them, one per image; got 2"),
    ],
)
def test_seeds_that_are_none_are_refused(seed, message):
    with pytest.raises(ArgumentError, match=message):
        resolve_seeds(seed, 3)


def test_seeds_of_narrow_numpy_types_count_on():
    assert resolve_seeds(cast("int", np.uint8(255)), 2) == [255, 256]
