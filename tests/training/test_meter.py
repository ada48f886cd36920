"""Means and rates of training steps."""

from __future__ import annotations

import math

import pytest
import torch

from sam_diffsr.training import meter as module
from sam_diffsr.training.meter import Meter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", clock)
    return clock


def test_pauses_are_no_training_and_waits_are_counted(clock: Clock) -> None:
    meter = Meter(torch.device("cpu"))
    with meter.waiting():
        clock.now += 1
    clock.now += 3
    meter.add(torch.tensor(2.0), torch.tensor(4.0), images=8)
    with meter.paused():
        clock.now += 1000
    meter.add(torch.tensor(4.0), torch.tensor(8.0), images=8)
    expected = {"loss": 3.0, "grad_norm": 6.0, "images_per_second": 4.0, "data_wait": 0.25}
    assert meter.summary() == expected
    assert meter.summary() == {}


def test_other_processes_take_part_in_means() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add(torch.tensor(2.0), torch.tensor(4.0), images=1)
    summary = meter.summary(reduce=lambda means: means + torch.tensor([1.0, 2.0]))
    assert (summary["loss"], summary["grad_norm"]) == (3.0, 6.0)


@pytest.mark.parametrize("skips", [False, True])
def test_skipped_steps(skips: bool) -> None:
    meter = Meter(torch.device("cpu"), skips=skips)
    for norm in (float("inf"), float("nan"), 6.0):
        meter.add(torch.tensor(1.0), torch.tensor(norm), images=1)
    norm = meter.summary()["grad_norm"]
    assert norm == 2.0 if skips else math.isnan(norm)
