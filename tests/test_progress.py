"""The bar, the callback and how to stop."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sam_diffsr.errors import CancelledError
from sam_diffsr.progress import Progress


def preview() -> torch.Tensor:
    return torch.zeros(1)


def test_the_callback_counts_steps_and_can_look(capsys):
    calls: list[tuple[int, int, float]] = []
    with Progress(
        show=False, callback=lambda step, total, look: calls.append((step, total, float(look()))), total=2
    ) as progress:
        progress.step(preview)
        progress.rewind(1, more=2)
        progress.step(preview, count=3)
    assert calls == [(1, 2, 0.0), (4, 4, 0.0)]
    assert progress.done == 4
    assert capsys.readouterr().err == ""


def test_the_bar_goes_back_for_a_repetition(capsys):
    with Progress(show=True, callback=None, total=2) as progress:
        progress.step(preview)
        progress.rewind(0)
        progress.step(preview)
        progress.step(preview)
    assert "100%" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_by_itself(capsys, monkeypatch: pytest.MonkeyPatch):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with Progress(show=None, callback=None, total=1) as progress:
            progress.step(preview)
        assert ("100%" in capsys.readouterr().err) is terminal


def test_a_notebook_gets_a_bar_by_itself(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with Progress(show=None, callback=None, total=1) as progress:
        progress.step(preview)
    assert "100%" in "".join(capsys.readouterr())


def test_false_and_errors_stop_the_work():
    with pytest.raises(CancelledError, match=r"the callback stopped the work at step 1 of 3"):
        Progress(show=False, callback=lambda step, total, look: False, total=3).step(preview)
    with pytest.raises(CancelledError, match=r"the callback stopped the work"):
        Progress(show=False, callback=lambda *_: np.bool_(False), total=3).step(preview)

    def broken(step: int, total: int, look: object) -> None:
        raise KeyError("gone")

    with pytest.raises(
        CancelledError, match=r"the callback raised KeyError at step 1 of 3: 'gone'"
    ) as caught:
        Progress(show=False, callback=broken, total=3).step(preview)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("answer", [None, True, 0, ""])
def test_nothing_else_stops_it(answer):
    Progress(show=False, callback=lambda step, total, look: answer, total=1).step(preview)
