"""Networks with their config on a device: loaded, saved, pushed, named by a fingerprint."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import torch

from sam_diffsr.device import resolve_device
from sam_diffsr.diffusion import NoiseSchedule
from sam_diffsr.errors import ArgumentError
from sam_diffsr.hub import push_folder
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import CARD_NAME, DEFAULT_MODEL, load_pretrained, save_pretrained_folder
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.device import Precision, network_layout, resolve_dtype

__all__ = ["PathLike", "PretrainedModel"]

PathLike = str | os.PathLike[str]
ModelT = TypeVar("ModelT", bound="PretrainedModel")


class PretrainedModel:
    """What :class:`~sam_diffsr.pipeline.resolver.SuperResolver` is before it sees an image."""

    def __init__(
        self,
        model: DiffSR,
        config: ResolverConfig,
        *,
        device: str | torch.device = "auto",
        dtype: Precision | torch.dtype = "auto",
        name: str | None = None,
    ) -> None:
        if model.config != config.model:
            raise ArgumentError(
                f"the model has {model.config}, but config.model is {config.model}; pass the config that the "
                "weights were made with"
            )
        self.name = name
        """What ``repr`` calls the model."""
        self.config = config
        """Everything but the weights."""
        self.device = resolve_device(device)
        """Where the networks are."""
        self.dtype = resolve_dtype(dtype, self.device)
        """Floating type of the networks."""
        self.fingerprint = _fingerprint(model)
        """First 12 hexadecimal digits of the SHA-256 of the weights, before they were cast."""
        model.to(device=self.device, dtype=self.dtype)
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            model.encoder.widen_head()
        self.model: DiffSR = model.to(memory_format=network_layout(self.device)).eval()
        """The networks, in evaluation mode."""
        model.denoiser.prepare()
        self.schedule = NoiseSchedule.from_config(config.schedule).to(self.device)
        """Tables of the diffusion process."""

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        pretrained_model_name_or_path: PathLike | None = None,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: PathLike | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str | torch.device = "auto",
        dtype: Precision | torch.dtype = "auto",
    ) -> ModelT:
        """Load trained weights.

        Args:
            pretrained_model_name_or_path: None for the default bundled model (no network); a bundled name; a
                folder with ``config.json`` and ``model.safetensors``; a ``.safetensors`` file; or a Hub id
                ``"owner/name"``. They are tried in this order.
            revision: branch, tag or commit on the Hub.
            subfolder: folder inside the folder or repository.
            cache_dir: download cache instead of the Hub client's own.
            token: access token for the Hub; None uses the one that is logged in.
            force_download: download again what is in the cache.
            local_files_only: use only what is in the cache.
            device: as for the class.
            dtype: as for the class.

        Raises:
            ModelLoadError: nothing is there, it cannot be reached or read, or it is pickled.
            CheckpointMismatchError: keys or shapes are not those of the configured model.
            ConfigError: the config has an unknown key or a value out of range.
            ArgumentError: the device or dtype cannot be had, or arguments do not go together.
        """
        device = resolve_device(device)  # before a download
        dtype = resolve_dtype(dtype, device)
        config, state_dict = load_pretrained(
            pretrained_model_name_or_path,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        with torch.random.fork_rng(devices=[]):  # the initial weights, all replaced below, must not use up
            model = build_model(config.model)  # the caller's random numbers
        model.load_state_dict(state_dict, strict=True)
        name = os.fspath(pretrained_model_name_or_path or DEFAULT_MODEL)
        return cls(model, config, device=device, dtype=dtype, name=name)

    @property
    def scale(self) -> int:
        """Factor of each side."""
        return self.config.model.scale

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name or 'unnamed'}, scale={self.scale}, device={self.device}, "
            f"dtype={str(self.dtype).removeprefix('torch.')}, weights={self.fingerprint})"
        )

    def save_pretrained(
        self, folder: PathLike, *, dtype: torch.dtype | None = None, card: str | None = None
    ) -> None:
        """Write a folder that :meth:`from_pretrained` loads.

        Args:
            folder: created if need be; files in it are replaced only once the new ones are complete.
            dtype: floating type to store the weights in; None keeps that of the networks.
            card: text of ``README.md``; None writes one, unless the folder has one.

        Raises:
            OutputError: the folder cannot be written.
        """
        if card is None and not (Path(folder) / CARD_NAME).exists():
            card = model_card(self.config, name=Path(folder).resolve().name)
        save_pretrained_folder(folder, self.config, self.model.state_dict(), card=card, dtype=dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a sam_diffsr model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        dtype: torch.dtype | None = None,
        card: str | None = None,
    ) -> str:
        """Upload config, weights and model card as one commit; the repository is created if need be.

        Args:
            repo_id: ``"owner/name"``.
            commit_message: first line of the commit.
            private: of a repository that is created; None leaves it to the owner's settings.
            token: access token; None uses the one that is logged in.
            revision: branch to commit to, created if need be; None is ``main``.
            create_pr: open a pull request instead of committing.
            dtype: floating type to store the weights in; None keeps that of the networks.
            card: text of the model card; None writes one.

        Returns:
            Address of the commit or of the pull request.

        Raises:
            OutputError: the Hub refused or could not be reached.
        """
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as folder:
            self.save_pretrained(folder, dtype=dtype, card=card or model_card(self.config, name=repo_id))
            return push_folder(
                Path(folder),
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def _fingerprint(model: DiffSR) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        numbers = value.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(numbers.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()[:12]
