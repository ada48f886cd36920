"""Real processes: two that share a batch, and one that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sam_diffsr.training import TrainConfig, config_to_yaml, read_checkpoint, read_log, train
from sam_diffsr.training.state import latest_checkpoint

MakeConfig = Callable[..., TrainConfig]
ROOT = Path(__file__).resolve().parents[2]


def start(*args: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "sam_diffsr", "train", *map(str, args), "--quiet"]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def write(path: Path, config: TrainConfig) -> Path:
    path.write_text(config_to_yaml(config))
    return path


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_train_as_one(make_config: MakeConfig, encoder_run: Path, tmp_path: Path) -> None:
    config = make_config(
        data={"batch": 4},
        diffusion={"encoder": str(encoder_run)},
        run={"log_every": 1, "accumulate": 2, "tracker": "jsonl"},
    )
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    path = write(tmp_path / "config.yaml", config)
    process = start("diffusion", path, "--out", tmp_path / "two", launcher=launcher)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert output.count("finished at step 6 of 6") == 1
    assert "Warning" not in output
    train("denoiser", config, tmp_path / "one")
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [record["step"] for record in two] == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in two] == pytest.approx([r[key] for r in one], rel=1e-4), key
    alone, together = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
    for key, value in alone.ema.items():
        torch.testing.assert_close(together.ema[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_kill_loses_at_most_the_interval_and_sigterm_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    every = {"checkpoint_every": 5, "log_every": 5, "threads": 1}  # sums of other threads round otherwise
    endless = make_config(run={"steps": 10**6, "keep": 2, **every})
    path, folder = write(tmp_path / "config.yaml", endless), tmp_path / "run"
    process = start("rrdb", path, "--out", folder)
    wait_for(lambda: latest_checkpoint(folder), process)
    process.kill()
    process.wait()
    killed = read_checkpoint(folder).step
    assert killed % 5 == 0
    assert read_log(folder)[-1]["step"] <= killed + 5

    (folder / "checkpoints" / ".half.part.safetensors").write_bytes(b"half")
    process = start("rrdb", path, "--out", folder, "--resume", "--set", "run.workers=2")
    wait_for(lambda: read_log(folder)[-1]["step"] > killed, process)
    os.killpg(process.pid, signal.SIGTERM)  # its workers get it as well
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "stopped (continue with --resume) at step" in output
    stopped = read_checkpoint(folder)
    assert stopped.step > killed
    assert not list((folder / "checkpoints").glob(".*"))

    run = {"steps": stopped.step, **every}
    straight = read_checkpoint(train("encoder", make_config(run=run), tmp_path / "straight").checkpoint)
    assert all(torch.equal(stopped.network[key], value) for key, value in straight.network.items())
    assert all(torch.equal(stopped.moments[key], value) for key, value in straight.moments.items())
