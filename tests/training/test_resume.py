"""Where a run starts or resumes, and which changes a resume accepts."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from sam_diffsr.config import to_dict
from sam_diffsr.errors import CheckpointMismatchError, ConfigError, ModelLoadError, OutputError
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import TrainConfig, export_run, load_config, read_checkpoint, read_log, train
from sam_diffsr.training.log import CROPS
from sam_diffsr.training.state import Checkpoint, check_same_run, list_checkpoints

MakeConfig = Callable[..., TrainConfig]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def denoiser_run(
    make_config: MakeConfig, encoder_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    train("denoiser", make_config(diffusion={"encoder": str(encoder_run)}, run={"steps": 2}), folder)
    return folder


@pytest.fixture(scope="module")
def history(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder run with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("history")
    train("encoder", make_config(run={"checkpoint_every": 1}), folder)
    return folder


def test_from_a_checkpoint_in_another_folder(make_config: MakeConfig, history: Path, tmp_path: Path) -> None:
    middle = list_checkpoints(history)[2]
    result = train("encoder", make_config(), tmp_path, resume=middle)
    assert (result.step, result.finished) == (6, True)
    assert same(read_checkpoint(tmp_path).network, read_checkpoint(history).network)


@pytest.mark.parametrize("resume", [True, "latest"])
def test_latest(resume: bool | str, make_config: MakeConfig, history: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(history, folder)
    for path in list_checkpoints(folder)[4:]:
        path.unlink()
    train("encoder", make_config(), folder, resume=resume)
    assert same(read_checkpoint(folder).moments, read_checkpoint(history).moments)


def test_older_checkpoint_of_a_folder_with_newer_ones(make_config: MakeConfig, history: Path) -> None:
    with pytest.raises(ConfigError, match=r"newer than .*step-00000005.* \(step-00000006\.safetensors\)"):
        train("encoder", make_config(), history, resume=list_checkpoints(history)[4])


def test_checkpoint_that_is_not_there(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot read checkpoint .*gone"):
        train("encoder", make_config(), tmp_path / "run", resume=tmp_path / "gone.safetensors")
    assert not (tmp_path / "run").exists()


def test_what_may_differ(make_config: MakeConfig, history: Path, tmp_path: Path) -> None:
    run = {"accumulate": 2, "log_every": 7, "keep": 1, "tracker": "none", "threads": 1}
    config = make_config(run=run, validation={"limit": 3})
    assert train("encoder", config, tmp_path, resume=list_checkpoints(history)[2]).finished


def test_data_that_moved_are_logged(
    make_config: MakeConfig, history: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = make_config()
    crops = before.data.crops
    assert crops is not None
    moved = shutil.copytree(crops, tmp_path / "moved")
    checkpoint = read_checkpoint(list_checkpoints(history)[2])
    with caplog.at_level("WARNING"):
        check_same_run(checkpoint, "encoder", before)
        assert caplog.messages == []
        train("encoder", make_config(data={"crops": str(moved)}), tmp_path / "run", resume=checkpoint.path)
    logged = [message for message in caplog.messages if message.startswith("resuming ")]
    assert logged == [
        f"resuming {checkpoint.path}: data.crops was {crops!r}, is now {str(moved)!r}; make sure that the "
        "data are the same"
    ]
    assert same(read_checkpoint(tmp_path / "run").network, read_checkpoint(history).network)


def test_photos_of_synthetic_images_may_move(
    make_config: MakeConfig, history: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = (make_config(data={"synthetic": {"photos": name}}) for name in ("old", "new"))
    with caplog.at_level("WARNING"):
        check_same_run(replace(read_checkpoint(history), config=to_dict(before)), "encoder", after)
    assert "data.synthetic.photos was 'old', is now 'new'" in caplog.text


def test_another_kind_of_data_is_refused(make_config: MakeConfig, history: Path) -> None:
    config = make_config(data={"crops": None, "photos": "photos"})
    with pytest.raises(ConfigError, match=r"data\.crops was '.*', is now None; data\.photos was None"):
        check_same_run(read_checkpoint(history), "encoder", config)


def test_checkpoint_from_before_a_value_was_there(
    make_config: MakeConfig, history: Path, tmp_path: Path
) -> None:
    source = list_checkpoints(history)[2]
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    del config["optimizer"]["weight_decay"], config["validation"]
    old = tmp_path / "old.safetensors"
    save_file(tensors, old, metadata={**metadata, "config": json.dumps(config)})
    assert train("encoder", make_config(), tmp_path / "run", resume=old).finished
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay was 0\.0, is now 0\.1$"):
        train("encoder", make_config(optimizer={"weight_decay": 0.1}), tmp_path / "other", resume=old)


def test_encoder_begins_with_trained_weights(
    make_config: MakeConfig, encoder_run: Path, denoiser_run: Path, tmp_path: Path
) -> None:
    trained = read_checkpoint(encoder_run).ema
    for name, origin in (("encoder", encoder_run), ("denoiser", denoiser_run)):
        run = {"init": str(origin), "steps": 1, "ema_decay": 0.999999}
        train("encoder", make_config(optimizer={"lr": 1e-12}, run=run), tmp_path / name)
        begun = read_checkpoint(tmp_path / name).network
        assert all(torch.allclose(begun[key], value, atol=1e-6) for key, value in trained.items())


def test_denoiser_begins_with_a_model_and_its_encoder(
    make_config: MakeConfig, denoiser_run: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    export_run(denoiser_run, model, sampling=SamplingConfig(sampler="ddim", steps=2))
    config = make_config(optimizer={"lr": 1e-12}, run={"init": str(model), "steps": 1})
    train("denoiser", config, tmp_path / "run")
    old, new = read_checkpoint(denoiser_run), read_checkpoint(tmp_path / "run")
    assert same(old.frozen, new.frozen)
    assert all(torch.allclose(new.network[key], value, atol=1e-6) for key, value in old.ema.items())


def test_denoiser_does_not_begin_with_an_encoder(
    make_config: MakeConfig, encoder_run: Path, tmp_path: Path
) -> None:
    config = make_config(run={"init": str(encoder_run)})
    with pytest.raises(CheckpointMismatchError, match="is of stage 'encoder' and has no denoiser"):
        train("denoiser", config, tmp_path)


def test_bundled_model_is_something_to_begin_with_if_the_sizes_fit(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointMismatchError, match=r"the weights of sam-diffsr-x4-small do not fit .* \.\.\."
    ):
        train("encoder", make_config(run={"init": "sam-diffsr-x4-small"}), tmp_path)


def test_weights_to_begin_with_that_are_not_there(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no model 'gone'"):
        train("encoder", make_config(run={"init": "gone"}), tmp_path)


def test_resuming_needs_no_origins_any_more(
    make_config: MakeConfig, denoiser_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(diffusion={"encoder": str(tmp_path / "moved")}, run={"steps": 3, "init": "gone"})
    with caplog.at_level("WARNING"):
        assert train("denoiser", config, tmp_path / "run", resume=denoiser_run).step == 3
    assert "moved'; the encoder in the checkpoint is used" in caplog.text


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_every_optimizer_resumes_exactly(name: str, make_config: MakeConfig, tmp_path: Path) -> None:
    sections = {"optimizer": {"name": name, "weight_decay": 0.1, "loss": "charbonnier"}}
    train("encoder", make_config(**sections), tmp_path / "straight")
    train("encoder", make_config(**sections, run={"steps": 3}), tmp_path / "cut")
    train("encoder", make_config(**sections), tmp_path / "cut", resume=True)
    straight, cut = (read_checkpoint(tmp_path / name) for name in ("straight", "cut"))
    assert same(straight.network, cut.network)
    assert same(straight.moments, cut.moments)


def test_weight_decay_of_the_two_kinds_differs(make_config: MakeConfig, tmp_path: Path) -> None:
    runs: list[Checkpoint] = []
    for name, decay in (("adam", 0.0), ("adam", 0.5), ("adamw", 0.5)):
        folder = tmp_path / f"{name}-{decay}"
        train("encoder", make_config(optimizer={"name": name, "weight_decay": decay}), folder)
        runs.append(read_checkpoint(folder))
    assert not same(runs[0].network, runs[1].network)
    assert not same(runs[1].network, runs[2].network)


def test_run_says_what_it_is(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    train("encoder", config, tmp_path)
    assert load_config(tmp_path / "config.yaml") == config


@contextmanager
def limited_file_size(limit: int) -> Generator[None, None, None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_while_saving(make_config: MakeConfig, history: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train("encoder", make_config(run={"steps": 2}), folder)
    with (
        limited_file_size(20_000),
        pytest.raises(OutputError, match=r"cannot write checkpoint .* free space and resume"),
    ):
        train("encoder", make_config(run={"steps": 4, "checkpoint_every": 1}), folder, resume=True)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002.safetensors"]
    train("encoder", make_config(), folder, resume=True)
    assert same(read_checkpoint(folder).network, read_checkpoint(history).network)
    steps = [record["step"] for record in read_log(folder)]
    assert steps == sorted(set(steps))


def test_a_folder_with_another_run_is_not_resumed_into(
    make_config: MakeConfig, history: Path, encoder_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoder_run, tmp_path / "other")
    before = list_checkpoints(folder)
    with pytest.raises(ConfigError, match="holds another run"):
        train("encoder", make_config(run={"steps": 99}), folder, resume=list_checkpoints(history)[5])
    assert list_checkpoints(folder) == before


def test_a_run_that_is_longer_already(make_config: MakeConfig, history: Path) -> None:
    with pytest.raises(ConfigError, match=r"has finished 6 steps, more than run\.steps 2"):
        train("encoder", make_config(run={"steps": 2}), history, resume=True)


def test_a_refused_resume_leaves_the_runs_crops(make_config: MakeConfig, tmp_path: Path) -> None:
    Image.effect_noise((160, 160), 60).convert("RGB").save(tmp_path / "photo.png")
    data = {"crops": None, "photos": str(tmp_path)}
    train("encoder", make_config(data=data, run={"steps": 1}), tmp_path / "run")
    manifest = (tmp_path / "run" / CROPS / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"data\.patch was"):
        train("encoder", make_config(data={**data, "patch": 40}), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / CROPS / "manifest.json").read_bytes() == manifest
