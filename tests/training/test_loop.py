"""The training loop: stopping, resuming, validating, failing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sam_diffsr.data import TrainingBatch
from sam_diffsr.errors import (
    ArgumentError,
    ConfigError,
    DataError,
    NumericalError,
    OutputError,
)
from sam_diffsr.models import DiffSR
from sam_diffsr.training import TrainConfig, read_checkpoint, read_log, train
from sam_diffsr.training.stages import EncoderStage, StageName
from sam_diffsr.training.state import Checkpoint, list_checkpoints

MakeConfig = Callable[..., TrainConfig]
GROUPS = ("network", "ema", "frozen", "moments")


Seen = tuple[dict[str, float], None]


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    assert first.step == second.step
    for group in GROUPS:
        mine, other = getattr(first, group), getattr(second, group)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), group


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_stop_and_resume_is_bit_identical(
    stage: StageName, channels_last: bool, make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    diffusion = {"encoder": str(encoder_run)}
    config = make_config(diffusion=diffusion, run={"channels_last": channels_last, "checkpoint_every": 4})
    straight = train(stage, config, tmp_path / "straight")
    short = make_config(diffusion=diffusion, run={"channels_last": channels_last, "steps": 4})
    first = train(stage, short, tmp_path / "cut")
    assert (first.step, first.finished) == (4, True)
    rest = make_config(  # batches that processes make are the same
        diffusion=diffusion, run={"channels_last": channels_last, "checkpoint_every": 4, "workers": 2}
    )
    before = torch.get_rng_state()
    second = train(stage, rest, tmp_path / "cut", resume=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not multiprocessing.active_children()
    assert (second.step, second.finished) == (6, True)
    assert_same(read_checkpoint(straight.checkpoint), read_checkpoint(second.checkpoint))


def test_average_follows_its_closed_form(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(run={"steps": 5, "checkpoint_every": 1, "ema_decay": 0.7})
    train("encoder", config, tmp_path)
    history = [read_checkpoint(path) for path in list_checkpoints(tmp_path)]
    assert [entry.step for entry in history] == [1, 2, 3, 4, 5]
    for key, average in history[-1].ema.items():
        expected = 0.7**4 * history[0].network[key]
        for step in range(1, 5):
            expected = expected + 0.3 * 0.7 ** (4 - step) * history[step].network[key]
        torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-7)


def test_encoder_does_not_change_in_stage_2(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    train("denoiser", make_config(diffusion={"encoder": str(encoder_run)}), tmp_path)
    before, after = read_checkpoint(encoder_run).ema, read_checkpoint(tmp_path)
    assert before.keys() == after.frozen.keys()
    assert all(torch.equal(before[key], after.frozen[key]) for key in before)
    assert not any(key.startswith("encoder") for key in after.network)


def test_encoder_starts_as_interpolation_unless_told_otherwise(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run, optimizer = {"steps": 1, "log_every": 1}, {"warmup_steps": 0}
    train("encoder", make_config(run=run, optimizer=optimizer), tmp_path / "interpolation")
    config = make_config(run={**run, "start": "random"}, optimizer=optimizer)
    train("encoder", config, tmp_path / "random")
    informed, uninformed = (read_log(tmp_path / name)[0]["loss"] for name in ("interpolation", "random"))
    assert informed < 0.5 * uninformed


def test_overfits(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        optimizer={"lr": 1e-2, "schedule": "cosine"},
        run={"steps": 80, "log_every": 5},
    )
    train("encoder", config, tmp_path)
    losses = [record["loss"] for record in read_log(tmp_path)]
    assert losses[-1] < losses[0] / 3


def test_batches_do_not_wait_and_the_log_says_so(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(run={"log_every": 2}), tmp_path)
    records = read_log(tmp_path)
    assert [record["step"] for record in records] == [2, 4, 6]
    assert set(records[0]) == {"step", "time", "loss", "grad_norm", "images_per_second", "data_wait", "lr"}
    assert records[0]["lr"] == pytest.approx(1e-3 * 2 / 3)
    assert 0 <= records[-1]["data_wait"] <= 1


def test_resume_drops_what_was_logged_after_the_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(run={"log_every": 1, "steps": 3}), tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    train("encoder", make_config(run={"log_every": 1, "steps": 5}), tmp_path, resume=True)
    records = read_log(tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert records[3]["loss"] != 1.0


def test_resuming_a_finished_run_changes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    first = train("encoder", make_config(), tmp_path)
    content = first.checkpoint.read_bytes()
    second = train("encoder", make_config(), tmp_path, resume=True)
    assert second == first
    assert second.checkpoint.read_bytes() == content


def test_resume_starts_when_there_is_nothing_to_resume(make_config: MakeConfig, tmp_path: Path) -> None:
    assert train("encoder", make_config(), tmp_path / "new", resume=True).finished


def test_global_random_state_and_threads_are_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train("encoder", make_config(run={"threads": threads + 1, "steps": 1}), tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_validation_sees_the_averaged_weights(
    stage: StageName, make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: DiffSR) -> Seen:
        assert not model.training
        assert not torch.is_grad_enabled()
        part = model.encoder if stage == "encoder" else model.denoiser
        seen.append({key: value.clone() for key, value in part.state_dict().items()})
        return {"score": float(len(seen))}, None

    config = make_config(diffusion={"encoder": str(encoder_run)}, run={"validate_every": 4})
    train(stage, config, tmp_path, validate=validate)
    assert len(seen) == 2
    final = read_checkpoint(tmp_path).ema
    assert all(torch.equal(final[key], seen[1][key]) for key in final)
    scores = [record["validation"] for record in read_log(tmp_path) if "validation" in record]
    assert scores == [{"score": 1.0}, {"score": 2.0}]


def test_sigterm_saves_and_returns(make_config: MakeConfig, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def interrupt(model: DiffSR) -> Seen:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}, None

    config = make_config(run={"validate_every": 3})
    result = train("encoder", config, tmp_path / "cut", validate=interrupt)
    assert (result.step, result.finished) == (3, False)
    assert read_checkpoint(result.checkpoint).step == 3
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed = train("encoder", config, tmp_path / "cut", resume=True)
    straight = train("encoder", config, tmp_path / "straight")
    assert_same(read_checkpoint(resumed.checkpoint), read_checkpoint(straight.checkpoint))


def test_time_limit_saves_and_returns(make_config: MakeConfig, tmp_path: Path) -> None:
    result = train("encoder", make_config(run={"steps": 10**6, "max_seconds": 0.2}), tmp_path)
    assert not result.finished
    assert read_checkpoint(tmp_path).step == result.step


def test_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EncoderStage.forward
    calls: list[int] = []

    def broken(self: EncoderStage, batch: TrainingBatch, *drawn: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        loss = real(self, batch, *drawn)
        return loss * float("nan") if len(calls) == 4 else loss

    monkeypatch.setattr(EncoderStage, "forward", broken)
    with pytest.raises(NumericalError, match=r"not finite at step 4 .*step-00000002\.safetensors"):
        train("encoder", make_config(run={"checkpoint_every": 2}), tmp_path)
    assert read_checkpoint(tmp_path).step == 2
    monkeypatch.undo()
    assert train("encoder", make_config(), tmp_path, resume=True).step == 6


def test_folder_that_holds_a_run(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(), tmp_path)
    with pytest.raises(ConfigError, match="already holds a run; resume it or choose another folder"):
        train("encoder", make_config(), tmp_path)


def test_resume_of_another_configuration(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(), tmp_path)
    with pytest.raises(
        ConfigError, match=r"optimizer\.lr was 0\.001, is now 0\.5; run\.seed was 0, is now 1"
    ):
        train("encoder", make_config(optimizer={"lr": 0.5}, run={"seed": 1}), tmp_path, resume=True)


def test_resume_of_another_stage(make_config: MakeConfig, encoder_run: Path, tmp_path: Path) -> None:
    config = make_config(diffusion={"encoder": str(encoder_run)})
    train("encoder", config, tmp_path)
    with pytest.raises(ConfigError, match="holds a run of stage 'encoder', not 'denoiser'"):
        train("denoiser", config, tmp_path, resume=True)


def test_unknown_stage(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="stage must be one of encoder, denoiser; got 'both'"):
        train("both", make_config(), tmp_path)  # pyright: ignore[reportArgumentType]


def test_denoiser_without_an_encoder(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set diffusion\.encoder to a stage-1 run folder"):
        train("denoiser", make_config(), tmp_path)


def test_denoiser_on_the_encoder_of_another_denoiser(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    train("denoiser", make_config(diffusion={"encoder": str(encoder_run)}), tmp_path / "a")
    train("denoiser", make_config(diffusion={"encoder": str(tmp_path / "a")}), tmp_path / "b")
    first, second = (read_checkpoint(tmp_path / name) for name in "ab")
    assert_same(first, second)


def test_an_encoder_that_the_first_stage_ignores(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path, caplog
) -> None:
    train("encoder", make_config(diffusion={"encoder": str(encoder_run)}, run={"steps": 1}), tmp_path / "run")
    assert "diffusion.encoder belongs to the denoiser's stage and is not used" in caplog.text


def test_missing_crops(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        train("encoder", make_config(data={"crops": str(tmp_path)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the run folder"):
        train("encoder", make_config(), tmp_path / "file" / "run")


def test_log_that_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*log\.jsonl"):
        train("encoder", make_config(), tmp_path)


def test_log_on_a_full_disk_keeps_checkpoints(make_config: MakeConfig, tmp_path: Path) -> None:
    def fill(model: DiffSR) -> Seen:
        (tmp_path / "log.jsonl").unlink()
        (tmp_path / "log.jsonl").mkdir()
        return {}, None

    config = make_config(run={"validate_every": 3, "checkpoint_every": 3})
    with pytest.raises(OutputError, match=r"cannot write the log .*log\.jsonl': .* checkpoints are kept"):
        train("encoder", config, tmp_path, validate=fill)
    assert read_checkpoint(tmp_path).step == 3


def test_zero_structure_trains_what_no_structure_trains(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    def weights(name: str, modulation: str, structure: str) -> Checkpoint:
        config = make_config(
            data={"structure": structure},
            diffusion={"encoder": str(encoder_run), "modulation": modulation},
        )
        return read_checkpoint(train("denoiser", config, tmp_path / name).checkpoint)

    none = weights("none", "none", "stored")
    assert_same(none, weights("released", "released", "zero"))
    assert_same(none, weights("paper", "paper", "zero"))
    structured = weights("structured", "paper", "stored")
    assert not all(torch.equal(none.ema[key], structured.ema[key]) for key in none.ema)
