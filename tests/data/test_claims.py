"""One process at a time makes a file, and what a dead one has claimed is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data import claims
from sam_diffsr.data.claims import MAX_AGE, claim, claim_path, remove_stale_claim
from sam_diffsr.data.mask_folder import generate_folder
from sam_diffsr.errors import OutputError

WORKER = """
import os, sys, time
from pathlib import Path
import numpy as np
from sam_diffsr.data.mask_folder import generate_folder
photos, out, log, seconds = sys.argv[1:]

class Slow:
    def generate(self, image):
        with open(log, "a") as file:
            file.write(f"{image.shape[1]}\\n")
        time.sleep(float(seconds))
        return [{"segmentation": np.ones(image.shape[:2], bool)}]

(Path(log).parent / f"ready-{os.getpid()}").touch()
sys.stdin.readline()
for outcome in generate_folder(photos, out, Slow):
    print(outcome.status, flush=True)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (10 + index, 8), (50, 60, 70)).save(folder / f"{index}.png")
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


class Halves:
    def generate(self, image: np.ndarray) -> list[dict]:
        return [{"segmentation": np.ones(image.shape[:2], bool)}]


def test_two_processes_share_a_folder_without_being_told(photos, tmp_path) -> None:
    out, log = tmp_path / "masks", tmp_path / "log"
    workers = [start(photos, out, log, 0.05) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    for worker in workers:
        go(worker)
    answers = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert sorted(map(int, log.read_text().split())) == list(range(10, 18))  # each photo once
    assert all("written" in answer and len(answer) == 8 for answer in answers)
    assert "failed" not in answers[0] + answers[1]
    assert sorted(path.name for path in out.iterdir()) == [f"{index}.json" for index in range(8)]


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_killed_process_loses_nothing(photos, tmp_path) -> None:
    out, log = tmp_path / "masks", tmp_path / "log"
    worker = start(photos, out, log, 600)
    go(worker)
    wait_for(log.exists)
    others = list(generate_folder(photos, out, Halves))
    assert [o.status for o in others] == ["written"] * 7 + ["elsewhere"]
    assert others[-1].number == 1
    assert claim_path(out / "0.json").is_file()
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=120)
    outcomes = list(generate_folder(photos, out, Halves))
    assert [o.status for o in outcomes] == ["written"] + ["skipped"] * 7
    assert sorted(path.name for path in out.iterdir()) == [f"{index}.json" for index in range(8)]


def test_a_claim_belongs_to_one(tmp_path) -> None:
    target = tmp_path / "a.json"
    with claim(target) as first, claim(target) as second:
        assert (first, second) == (True, False)
        assert not remove_stale_claim(target)
    assert remove_stale_claim(target)
    with claim(target) as again:
        assert again
    assert not list(tmp_path.iterdir())


def test_an_error_gives_the_claim_back(tmp_path) -> None:
    def interrupted() -> None:
        with claim(tmp_path / "a.json"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("owner", "age", "gone"),
    [
        ({"host": "elsewhere.example", "pid": 1, "process": "x"}, 0, False),
        ({"host": "elsewhere.example", "pid": 1, "process": "x"}, MAX_AGE + 1, True),
        ({"host": "", "pid": os.getppid(), "process": "x"}, 0, False),
        ({"host": "", "pid": os.getppid(), "process": "x"}, MAX_AGE + 1, True),
        ({"host": "", "pid": os.getpid(), "process": "of an earlier life"}, 0, os.name == "posix"),
        ({"host": "", "pid": 0, "process": "x"}, 0, False),
        (None, 0, False),
        (None, MAX_AGE + 1, True),
    ],
)
def test_whose_claims_are_taken_over(tmp_path, owner, age, gone) -> None:
    path = claim_path(tmp_path / "a.json")
    if owner is not None and not owner["host"]:
        owner["host"] = claims.socket.gethostname()
    path.write_text("" if owner is None else json.dumps(owner))
    os.utime(path, (time.time() - age,) * 2)
    with claim(tmp_path / "a.json") as is_ours:
        assert is_ours is gone
    assert path.exists() is not gone


def test_a_claim_taken_over_in_between_is_given_back(tmp_path, monkeypatch) -> None:
    path = claim_path(tmp_path / "a.json")
    path.write_text("old")
    os.utime(path, (0, 0))
    real = os.rename

    def late(source, target):
        path.unlink()
        path.write_text("new")  # another process was faster
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    with claim(tmp_path / "a.json") as is_ours:
        assert not is_ours
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_long_work_keeps_its_claim_fresh(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "_TOUCH_EVERY", 0.01)
    path = claim_path(tmp_path / "a.json")
    with claim(tmp_path / "a.json"):
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > time.time() - 60)


def test_a_claim_left_beside_a_whole_file_is_removed(photos, tmp_path) -> None:
    out = tmp_path / "masks"
    list(generate_folder(photos, out, Halves))
    path = claim_path(out / "0.json")
    path.write_text("")
    os.utime(path, (0, 0))
    assert {o.status for o in generate_folder(photos, out, Halves)} == {"skipped"}
    assert not path.exists()


def test_a_folder_that_takes_no_claim(tmp_path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write into the folder .*gone: No such file"),
        claim(tmp_path / "gone" / "a.json"),
    ):
        pass
