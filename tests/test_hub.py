"""Options of the Hub; downloads through the real client are tested in ``pipeline/test_hub.py``."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam_diffsr import SuperResolver
from sam_diffsr.errors import ModelLoadError
from sam_diffsr.hub import HubOptions, download_model


def test_names_and_defaults_are_those_of_the_client_and_of_from_pretrained() -> None:
    client = inspect.signature(pytest.importorskip("huggingface_hub").hf_hub_download).parameters
    public = inspect.signature(SuperResolver.from_pretrained).parameters
    for field in dataclasses.fields(HubOptions):
        assert client[field.name].default == field.default == public[field.name].default, field.name


def test_token_is_not_printed_and_options_are_frozen() -> None:
    options = HubOptions(token="hf_secret")
    assert "hf_secret" not in repr(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.token = None  # pyright: ignore[reportAttributeAccessIssue]


def test_a_fresh_process_can_push(tmp_path: Path) -> None:
    code = (
        f"from sam_diffsr.hub import push_folder; push_folder({str(tmp_path)!r}, 'a/b', commit_message='c')"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "OutputError: cannot push to a/b at http://127.0.0.1:9" in done.stderr


def test_the_client_is_quiet_for_its_download_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    log, levels = logging.getLogger("huggingface_hub"), []
    monkeypatch.setattr(log, "level", logging.INFO)

    def fetch(*args: object, **options: object) -> str:
        levels.append(log.level)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(ModelLoadError, match="no network"):
        download_model("owner/name", ("config.json",))
    assert levels == [logging.ERROR]
    assert log.level == logging.INFO
