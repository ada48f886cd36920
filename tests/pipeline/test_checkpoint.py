"""Model folders and files: strict, atomic, never pickled, never random weights."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam_diffsr.errors import ArgumentError, CheckpointMismatchError, ModelLoadError, OutputError
from sam_diffsr.hub import HubOptions
from sam_diffsr.pipeline import checkpoint
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import available_models, load_pretrained, save_pretrained_folder
from sam_diffsr.pipeline.config import config_to_json


@pytest.fixture
def folder(tmp_path: Path, config, model) -> Path:
    save_pretrained_folder(tmp_path / "model", config, model.state_dict(), card="# Card")
    return tmp_path / "model"


@pytest.fixture
def no_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(checkpoint, "_BUNDLED", tmp_path / "weights")
    return tmp_path / "weights"


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_folder_and_file_give_back_what_was_saved(folder: Path, config, model):
    alone = folder.parent / "alone.safetensors"
    shutil.copy(folder / "model.safetensors", alone)
    for source in (folder, str(folder), folder / "model.safetensors", alone):
        loaded, state_dict = load_pretrained(source)
        assert loaded == config
        assert same(state_dict, dict(model.state_dict()))
    assert load_pretrained(folder.parent, HubOptions(subfolder="model"))[0] == config
    assert (folder / "README.md").read_text() == "# Card"


def test_loading_leaves_the_global_random_numbers_alone(folder: Path):
    before = torch.get_rng_state()
    load_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_can_be_stored_in_half_the_bytes(tmp_path: Path, config, model):
    for dtype in (torch.float16, "fp16"):
        save_pretrained_folder(tmp_path, config, model.state_dict(), card=None, dtype=dtype)
        assert {value.dtype for value in load_pretrained(tmp_path)[1].values()} == {torch.float16}
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, "int8"])
def test_types_that_no_model_has_are_not_stored(folder: Path, config, model, dtype):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ArgumentError, match="dtype must be one of auto, fp32, fp16, bf16 or the torch"):
        save_pretrained_folder(folder, config, model.state_dict(), card=None, dtype=dtype)
    assert (folder / "model.safetensors").read_bytes() == before


def test_channels_last_and_shared_tensors_are_stored_densely(tmp_path: Path, config, model):
    model.to(memory_format=torch.channels_last)
    save_pretrained_folder(tmp_path, config, model.state_dict(), card=None)
    assert all(value.is_contiguous() for value in load_file(tmp_path / "model.safetensors").values())


def test_a_bundled_name_comes_before_a_folder_of_that_name(
    no_bundled: Path, folder: Path, config, monkeypatch
):
    assert available_models() == ()
    shutil.copytree(folder, no_bundled / "tiny")
    assert available_models() == ("tiny",)
    monkeypatch.chdir(folder.parent)
    (folder.parent / "tiny").mkdir()
    assert load_pretrained("tiny")[0] == config
    monkeypatch.setattr(checkpoint, "DEFAULT_MODEL", "tiny")
    assert load_pretrained()[0] == config


def test_the_files_can_be_read_by_others(folder: Path):
    umask = os.umask(0)
    os.umask(umask)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.safetensors"], r"has no config\.json; a model folder is written by save_pretrained, "),
        (["config.json"], r"has no model\.safetensors; a model folder"),
        (
            ["old.ckpt"],
            r"has no config\.json and no model\.safetensors; to use old\.ckpt, run `sam-diffsr convert",
        ),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path: Path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelLoadError, match=message):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".PTH"])
def test_pickled_files_are_never_opened(tmp_path: Path, suffix: str):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ModelLoadError, match=r"is a pickled checkpoint, .*`sam-diffsr convert .* OUT_DIR`"):
        load_pretrained(path)


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_a_truncated_file_is_refused(folder: Path, size: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is not a complete safetensors file \(.*\)"):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelLoadError, match="is not a complete safetensors file"):
        load_pretrained(path)


def test_a_pickle_under_another_name_is_refused(folder: Path):
    torch.save({"weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"it is truncated or something else under this name"):
        load_pretrained(folder)


def test_a_file_without_a_config_is_refused(tmp_path: Path, model):
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    with pytest.raises(ModelLoadError, match=r"has no config: expected a config\.json next to it"):
        load_pretrained(path)


def test_an_unreadable_config_is_refused(folder: Path):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(ModelLoadError, match=r"cannot read .*config\.json: "):
        load_pretrained(folder)


def test_a_config_nested_without_end_is_refused(folder: Path):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelLoadError, match=r"config\.json is not valid JSON"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 300])
def test_names_that_no_path_can_have_are_refused(name: str):
    with pytest.raises(ModelLoadError, match=r"(cannot be the path of a model|there is no model)"):
        load_pretrained(name)


def test_misfits_are_named_the_first_ten_of_each(folder: Path, model, config):
    state = {f"extra{index:02}": torch.zeros(1) for index in range(12)}
    for index, (key, value) in enumerate(model.state_dict().items()):
        if index == 0:
            continue
        state[key] = torch.zeros(3) if index == 1 else value.contiguous()
    state[list(state)[-1]] = state[list(state)[-1]].int()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointMismatchError) as caught:
        load_pretrained(folder)
    text = str(caught.value)
    missing, changed = list(model.state_dict())[:2]
    assert f"1 missing: {missing};" in text
    assert "12 unexpected: extra00, " in text
    assert "extra09 ..." in text
    assert "extra10" not in text
    assert f"1 of the wrong shape: {changed} (3,) instead of (8,)" in text
    assert "1 not floating point: " in text
    assert "use the config that was saved with these weights" in text
    with pytest.raises(CheckpointMismatchError, match=r"the weights of the model to be saved do not fit"):
        save_pretrained_folder(folder, config, {}, card=None)


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "./nothing",
        "a/b/c",
        "owner/file.safetensors",
        "owner/file.ckpt",
        "owner/",
        "../x/y",
        "runs/a",
    ],
)
def test_a_name_that_is_nothing_is_refused_without_a_network(no_bundled: Path, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "download_model", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    (tmp_path / "runs").mkdir()  # a misspelt path below a folder must not fetch a stranger's model
    with pytest.raises(ModelLoadError, match=r"there is no (model|'runs/a', but a folder 'runs')"):
        load_pretrained(name)


@pytest.mark.parametrize(("name", "near"), [("smal", "small"), ("Photo", "photo"), ("phto", "photo")])
def test_a_misspelt_model_is_answered_with_the_nearest(name: str, near: str):
    message = rf"a bundled name \(base, photo, small\), .*; did you mean {near}\?"
    with pytest.raises(ModelLoadError, match=message):
        load_pretrained(name)


@pytest.mark.parametrize("name", [5, 0, "", b"small", ["small"]])
def test_a_name_of_another_kind_is_refused(name):
    with pytest.raises(ArgumentError, match=r"a model is given by its name or path, got "):
        load_pretrained(name)


def test_the_default_is_missed_by_name(no_bundled: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelLoadError,
        match=r"there is no model 'sam-diffsr-x4-photo': expected None, a bundled name \(none\)",
    ):
        load_pretrained()


def test_arguments_for_the_hub_do_not_go_with_local_files(folder: Path):
    with pytest.raises(ArgumentError, match=r"revision='v2' is for models on the Hub"):
        load_pretrained(folder, HubOptions(revision="v2"))
    with pytest.raises(ArgumentError, match=r"subfolder='x' is for folders and Hub ids"):
        load_pretrained(folder / "model.safetensors", HubOptions(subfolder="x"))
    with pytest.raises(ModelLoadError, match=r"the folder .*nowhere has no config\.json and no model"):
        load_pretrained(folder, HubOptions(subfolder="nowhere"))


def test_a_failed_save_changes_nothing(folder: Path, config, model, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match=r"cannot write the model '.*': No space left on device"):
        save_pretrained_folder(folder, config, model.state_dict(), card="new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, config, model):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write the model '.*taken': File exists; choose a folder"):
        save_pretrained_folder(tmp_path / "taken", config, model.state_dict(), card=None)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_readme_of_something_else_is_not_replaced(tmp_path: Path, config, model):
    (tmp_path / "README.md").write_text("# My project")
    card = model_card(config, name="mine")
    with pytest.raises(OutputError, match=r"README\.md is not a card of this library; choose another folder"):
        save_pretrained_folder(tmp_path, config, model.state_dict(), card=card)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").write_text(card)
    save_pretrained_folder(tmp_path, config, model.state_dict(), card=card.replace("mine", "newer"))
    assert "newer" in (tmp_path / "README.md").read_text()


def test_saving_twice_replaces_everything(folder: Path, config, model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save_pretrained_folder(folder, config, model.state_dict(), card="new")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert same(load_pretrained(folder)[1], dict(model.state_dict()))
    assert (folder / "README.md").read_text() == "new"
    assert (folder / "config.json").read_text() == config_to_json(config)
