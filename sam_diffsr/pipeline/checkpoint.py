"""Weights and their config: bundled, in a folder, in one file or on the Hub; and how they are saved.

Nothing pickled is ever read here, loading is strict, and there is no path on which random weights are used.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sam_diffsr.errors import ArgumentError, ModelLoadError, OutputError
from sam_diffsr.hub import HubOptions, download_model
from sam_diffsr.pipeline.config import ResolverConfig, config_to_json
from sam_diffsr.pipeline.files import (
    CONFIG_NAME,
    METADATA_KEY,
    PICKLED_SUFFIXES,
    WEIGHTS_NAME,
    check_state_dict,
    read_file,
    read_folder,
    read_pair,
)

__all__ = ["CARD_NAME", "DEFAULT_MODEL", "available_models", "load_pretrained", "save_pretrained_folder"]

CARD_NAME = "README.md"
DEFAULT_MODEL = "sam-diffsr-x4-small"
"""The bundled model that ``from_pretrained()`` loads."""

_BUNDLED = Path(__file__).resolve().parents[1] / "weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def available_models() -> tuple[str, ...]:
    """Names of the models that are shipped inside the package and load without a network."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_NAME}")))


def load_pretrained(
    pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> tuple[ResolverConfig, dict[str, Tensor]]:
    """Find a model, read it and check it against its config.

    Args:
        pretrained_model_name_or_path: None for the default bundled model; a bundled name (see
            :func:`available_models`); a folder with ``config.json`` and ``model.safetensors``; a
            ``.safetensors`` file with a ``config.json`` beside it or in its header; or a Hub id
            ``"owner/name"``. They are tried in this order.
        revision: branch, tag or commit on the Hub; only for a Hub id.
        subfolder: folder inside the local folder or the Hub repository.
        cache_dir: download cache instead of the Hub client's own.
        token: access token for the Hub; None uses the one that is logged in.
        force_download: download again what is in the cache.
        local_files_only: use only what is in the cache.

    Returns:
        The config and the tensors of ``build_model(config.model).state_dict()``, on the CPU, in the dtype
        that they are stored in.

    Raises:
        ModelLoadError: nothing is there, it cannot be reached or read, or it is pickled.
        CheckpointMismatchError: keys or shapes are not those of the configured model.
        ConfigError: the config has an unknown key or a value out of range.
        ArgumentError: arguments that do not go together.
    """
    name = (
        DEFAULT_MODEL if pretrained_model_name_or_path is None else os.fspath(pretrained_model_name_or_path)
    )
    path = _BUNDLED / name if name in available_models() else Path(name).expanduser()
    if path.exists() and revision is not None:
        raise ArgumentError(
            f"revision={revision!r} is for models on the Hub, but {name!r} is local; leave it out"
        )
    if path.is_dir():
        return read_folder(path / subfolder if subfolder else path)
    if path.is_file():
        if path.suffix.lower() in PICKLED_SUFFIXES:
            raise ModelLoadError(
                f"{name} is a pickled checkpoint, which can run code when it is read; turn it into a folder "
                f"with `sam-diffsr convert {name} OUT_DIR` and load OUT_DIR"
            )
        if subfolder is not None:
            raise ArgumentError(f"subfolder={subfolder!r} is for folders and Hub ids, but {name!r} is a file")
        return read_file(path)
    if _HUB_ID.fullmatch(name) is None or path.suffix.lower() in (".safetensors", *PICKLED_SUFFIXES):
        raise ModelLoadError(
            f"there is no model {name!r}: expected None, a bundled name "
            f"({', '.join(available_models()) or 'none'}), an existing folder or .safetensors file, "
            "or a Hub id of the form owner/name"
        )
    hub = HubOptions(
        revision=revision,
        subfolder=subfolder,
        cache_dir=cache_dir,
        token=token,
        force_download=force_download,
        local_files_only=local_files_only,
    )
    config_path, weights_path = download_model(name, (CONFIG_NAME, WEIGHTS_NAME), hub)
    return read_pair(config_path, weights_path)


def save_pretrained_folder(
    folder: str | os.PathLike[str],
    config: ResolverConfig,
    state_dict: Mapping[str, Tensor],
    *,
    card: str | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and a model card.

    Every file is first written in full under a temporary name in the same folder, and only then are all of
    them renamed, so a reader never sees half a file.

    Args:
        folder: created if need be.
        config: what ``config.json`` and the header of the weights say.
        state_dict: the tensors of ``build_model(config.model).state_dict()``, on any device.
        card: text of ``README.md``; None writes none and leaves one that is there.
        dtype: floating type to store the weights in; None keeps theirs.

    Raises:
        CheckpointMismatchError: the tensors are not those of the configured model.
        OutputError: the folder cannot be written.
    """
    check_state_dict(state_dict, config.model, source="the model to be saved")
    tensors = {name: _storable(value, dtype) for name, value in state_dict.items()}
    text = config_to_json(config)
    metadata = {"format": "pt", METADATA_KEY: text}
    # safetensors' own save_file would make a file that nobody else may read
    contents = {WEIGHTS_NAME: save(tensors, metadata=metadata), CONFIG_NAME: text.encode()}
    if card is not None:
        contents[CARD_NAME] = card.encode()
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as workplace:
            for name, content in contents.items():
                (Path(workplace) / name).write_bytes(content)
            for name in contents:
                os.replace(Path(workplace) / name, target / name)
    except OSError as error:
        raise OutputError(
            f"cannot save the model to {target}: {error}; choose a folder that can be written"
        ) from error


def _storable(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A dense CPU tensor of its own: safetensors stores neither channels-last strides nor shared memory."""
    return value.detach().to(device="cpu", dtype=dtype, copy=True).contiguous()
