"""Reads and writes models: bundled, in a folder, in one file or on the Hub; converts those of other code.

Nothing pickled is ever read here, loading is strict, and random weights are never used.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import safetensors
import torch
from safetensors.torch import save  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.device import Precision, resolve_dtype
from sam_diffsr.diffusion.schedule import ScheduleConfig, ScheduleName
from sam_diffsr.errors import ArgumentError, CheckpointMismatchError, ModelLoadError, OutputError
from sam_diffsr.files import writing
from sam_diffsr.hub import HubOptions, download_model, refuse_misspelt_path
from sam_diffsr.models import DenoiserConfig, DiffSR, ModelConfig, read_reference_checkpoint
from sam_diffsr.models.published import is_rrdbnet_file, load_rrdbnet_checkpoint, read_header
from sam_diffsr.models.weights import check_state_dict
from sam_diffsr.pipeline.card import CARD_MARK, model_card
from sam_diffsr.pipeline.config import (
    NormalizationConfig,
    ResolverConfig,
    SamplingConfig,
    config_from_json,
    config_to_json,
)

DEFAULT_MODEL = "sam-diffsr-x4-photo"
"""The bundled model that ``from_pretrained()`` loads."""
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
METADATA_KEY = "config"
"""Entry of the safetensors header with the text of config.json, so that one file is enough."""
PICKLED_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
"""Endings of files that are never read, because reading them can run code."""

_BUNDLED = Path(__file__).resolve().parents[1] / "weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_PUBLISHED_HALO = 96
"""Output pixels; the published denoiser looks further than the bundled ones."""

Loaded = tuple[ResolverConfig, dict[str, Tensor]]


def available_models() -> tuple[str, ...]:
    """Names of the models that are shipped inside the package and load without a network."""
    return tuple(sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_NAME}")))


def load_pretrained(name: str | os.PathLike[str] | None = None, options: HubOptions | None = None) -> Loaded:
    """Find a model, read it and check the weights against the config.

    Names and errors are those of :meth:`SuperResolver.from_pretrained`. ``options`` are for a Hub id; their
    ``subfolder`` also applies to a local folder.

    Returns:
        The config and the tensors of ``build_model(config.model).state_dict()``, on the CPU, in the dtype
        that they are stored in.
    """
    options = options or HubOptions()
    if name == "" or not isinstance(name, str | os.PathLike | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"a model is given by its name or path, got {name!r}; see available_models()")
    name = DEFAULT_MODEL if name is None else os.fspath(name)
    bundled = next((each for each in (name, f"sam-diffsr-x4-{name}") if each in available_models()), None)
    try:
        path = Path(name).expanduser() if bundled is None else _BUNDLED / bundled
        exists = path.exists()
    except (RuntimeError, OSError) as error:  # an unknown user's folder, a name that is too long
        raise ModelLoadError(f"{name!r} cannot be the path of a model: {error}") from error
    if exists and options.revision is not None:
        raise ArgumentError(
            f"revision={options.revision!r} is for models on the Hub, but {name!r} is local; leave it out"
        )
    if path.is_dir():
        return _read_folder(path / options.subfolder if options.subfolder else path)
    if path.is_file():
        if path.suffix.lower() in PICKLED_SUFFIXES:
            raise ModelLoadError(
                f"{name} is a pickled checkpoint, which can run code when it is read; turn it into a folder "
                f"with `sam-diffsr convert {name} OUT_DIR` and load OUT_DIR"
            )
        if options.subfolder is not None:
            raise ArgumentError(
                f"subfolder={options.subfolder!r} is for folders and Hub ids, but {name!r} is a file"
            )
        sibling = path.with_name(CONFIG_NAME)
        return _read(sibling if sibling.is_file() else None, path)
    if _HUB_ID.fullmatch(name) is None or path.suffix.lower() in (".safetensors", *PICKLED_SUFFIXES):
        short = [each.rpartition("-")[2] for each in available_models()]
        near = difflib.get_close_matches(name.lower(), [*short, *available_models()], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ModelLoadError(
            f"there is no model {name!r}: expected None, a bundled name ({', '.join(short) or 'none'}), an "
            f"existing folder or .safetensors file, or a Hub id of the form owner/name{hint}"
        )
    refuse_misspelt_path(name)
    return _read(*download_model(name, (CONFIG_NAME, WEIGHTS_NAME), options=options))


def _read_folder(folder: Path) -> Loaded:
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if name not in present]
    if missing:
        pickled = [name for name in present if name.lower().endswith(PICKLED_SUFFIXES)]
        advice = (
            f"to use {pickled[0]}, run `sam-diffsr convert {folder / pickled[0]} OUT_DIR`"
            if pickled
            else "a model folder is written by save_pretrained, `sam-diffsr export` or `sam-diffsr convert`"
        )
        raise ModelLoadError(f"the folder {folder} has no {' and no '.join(missing)}; {advice}")
    return _read(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def _read(config_path: Path | None, weights_path: Path) -> Loaded:
    """Read weights and their config, from the header of the weights if it has no file of its own."""
    try:
        with safetensors.safe_open(weights_path, framework="pt") as opened:  # pyright: ignore[reportUnknownVariableType]
            file = cast("Any", opened)
            header: dict[str, str] = file.metadata() or {}
            state_dict: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{weights_path} is not a complete safetensors file ({error}); it is truncated or something else "
            "under this name: download or save it again"
        ) from error
    if config_path is None:
        source, text = f"the header of {weights_path}", header.get(METADATA_KEY)
        if text is None:
            raise ModelLoadError(
                f"{weights_path} has no config: expected a {CONFIG_NAME} next to it or a config in its "
                f"header; put the {CONFIG_NAME} that it was saved with into the same folder"
            )
    else:
        source = str(config_path)
        try:
            text = config_path.read_bytes()
        except OSError as error:
            raise ModelLoadError(f"cannot read {config_path}: {error.strerror or error}") from error
    config = config_from_json(text, source=source)
    check_state_dict(state_dict, config.model, source=str(weights_path))
    return config, state_dict


def save_pretrained_folder(
    folder: str | os.PathLike[str],
    config: ResolverConfig,
    state_dict: Mapping[str, Tensor],
    *,
    card: str | None,
    dtype: Precision | torch.dtype | None = None,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and a model card, see ``SuperResolver.save_pretrained``.

    All files are first written in full under temporary names, so a reader never sees half a file.
    ``state_dict`` is that of ``build_model(config.model)``, on any device. No card leaves an existing one; a
    card of this library replaces no other ``README.md``.

    Raises:
        CheckpointMismatchError: the tensors are not those of the configured model.
        ArgumentError: ``dtype`` is none that networks are stored in.
        OutputError: the folder cannot be written, or would lose a ``README.md``.
    """
    dtype = None if dtype is None else resolve_dtype(dtype, torch.device("meta"))
    check_state_dict(state_dict, config.model, source="the model to be saved")
    tensors = {  # dense copies: safetensors stores neither channels-last strides nor shared memory
        name: value.detach().to(device="cpu", dtype=dtype, copy=True).contiguous()
        for name, value in state_dict.items()
    }
    text = config_to_json(config)
    metadata = {"format": "pt", METADATA_KEY: text}
    # safetensors' own save_file would make a file that nobody else may read
    contents = {WEIGHTS_NAME: save(tensors, metadata=metadata), CONFIG_NAME: text.encode()}
    target = Path(folder)
    with writing("the model", target, advice="choose a folder that can be written"):
        if card is not None:
            contents[CARD_NAME] = card.encode()
            old = target / CARD_NAME
            if CARD_MARK in card and old.is_file() and CARD_MARK.encode() not in old.read_bytes():
                raise OutputError(f"{old} is not a card of this library; choose another folder, or move it")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as workplace:
            for name, content in contents.items():
                Path(workplace, name).write_bytes(content)
            for name in contents:
                os.replace(Path(workplace, name), target / name)


def convert_checkpoint(
    checkpoint: str | os.PathLike[str], folder: str | os.PathLike[str], *, dtype: Precision = "auto"
) -> ResolverConfig:
    """Write a folder that :meth:`SuperResolver.from_pretrained` loads, and give its config.

    Sizes are inferred from the tensors; nothing in the file is executed. A published ``.ckpt`` is used as
    published: the schedule of its own betas (or the published one), all ancestral steps, bicubic input
    divided by 256, structure in mode ``released``. An RRDBNet (``.pth`` or ``.safetensors``) becomes a model
    that gives the encoder's image alone; its denoiser is all zeros until it is trained (``diffusion.encoder``
    of a training config). ``dtype`` is the floating type to store; ``auto`` keeps float32.

    Raises:
        ModelLoadError: the checkpoint cannot be read.
        CheckpointMismatchError: its tensors are those of neither network, its betas are none of the known
            schedules, or it is a model of this library already.
        OutputError: the folder cannot be written, or holds the checkpoint under the name of the result.
    """
    source, target = Path(checkpoint), Path(folder, WEIGHTS_NAME)
    if source.is_file() and target.exists() and source.samefile(target):
        raise OutputError(f"the converted model would replace {source} itself; choose another folder")
    header = read_header(source)[1]
    if METADATA_KEY in header:
        raise CheckpointMismatchError(
            f"{source} is a checkpoint of a training run; make a model of it: sam-diffsr export"
            if "stage" in header
            else f"{source} is a model of this library; use it as it is: sam-diffsr upscale -m {source}"
        )
    if is_rrdbnet_file(source):
        config, state_dict = _from_rrdbnet(source)
        details = f"Converted from the RRDBNet `{source.name}`. The denoiser is not trained."
    else:
        config, state_dict = _from_reference(source)
        details = f"Converted from the published checkpoint `{source.name}`."
    card = model_card(config, name=Path(folder).resolve().name, details=details)
    save_pretrained_folder(folder, config, state_dict, card=card, dtype=dtype)
    return config


def _from_reference(source: Path) -> Loaded:
    model, state_dict, betas = read_reference_checkpoint(source)
    schedule: ScheduleConfig | None = ScheduleConfig()
    if betas is not None and (schedule := ScheduleConfig.of_betas(betas.numpy())) is None:
        raise CheckpointMismatchError(
            f"the {len(betas)} betas of {source} ({betas[0]:.4g} to {betas[-1]:.4g}) are none of the "
            f"schedules {', '.join(get_args(ScheduleName))}; a model with them cannot be sampled correctly"
        )
    config = ResolverConfig(
        model=model,
        schedule=schedule,
        normalization=NormalizationConfig(lr_up_levels=256),
        modulation="released",
        sampling=SamplingConfig(sampler="ddpm", steps=schedule.timesteps),
        halo=_PUBLISHED_HALO,
    )
    return config, state_dict


def _from_rrdbnet(source: Path) -> Loaded:
    encoder, scale, tensors = load_rrdbnet_checkpoint(source)
    model = ModelConfig(scale=scale, encoder=encoder, denoiser=DenoiserConfig(dim=8, multipliers=(1, 1)))
    with torch.device("meta"):
        names = DiffSR(model).state_dict()
    weights = {
        name: tensors.get(name.removeprefix("encoder."), torch.zeros(value.shape, device="cpu"))
        for name, value in names.items()
    }
    return ResolverConfig(model=model, sampling=SamplingConfig(sampler="ddim", steps=0)), weights
