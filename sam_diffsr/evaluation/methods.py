"""The methods that an evaluation compares: bicubic, an encoder alone, a model, files made elsewhere."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from torch import Tensor

from sam_diffsr.diffusion.samplers import SamplerName, Spacing
from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.pairs import Pair, check_size, check_sizes, match_files, read_image
from sam_diffsr.image.jobs import find_images
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.settings import resolve_settings
from sam_diffsr.resize import imresize

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
MethodKind = Literal["bicubic", "encoder", "model", "images"]
"""``encoder`` is the stage-1 network's own image, without diffusion; ``images`` are files made elsewhere."""
Start = int | Literal["noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How a model samples in one row."""

    sampling: SamplingConfig
    """Sampler, steps, start and spacing."""
    fidelity: float | None = None
    """The fidelity that chose them; None where they were given one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of a table."""

    kind: MethodKind
    name: str = ""
    """Name of the model or of the folder."""
    setting: Setting | None = None
    """How a model samples; None for other kinds."""
    enlarge: Callable[[Pair, int], Tensor]
    """Pair and seed to ``(1, 3, H, W)``, float in [0, 1] or uint8, on any device."""
    identity: str = ""
    """Fingerprint of the weights and the config, or the folder of the files."""
    files: tuple[Path, ...] = ()
    """Files made elsewhere, one per truth."""

    @property
    def label(self) -> str:
        """One line that tells the method from the others."""
        parts = [self.name, self.kind if self.kind in ("bicubic", "encoder") else ""]
        if self.setting is not None:
            sampling, fidelity = self.setting.sampling, self.setting.fidelity
            start = "" if sampling.start is None else f" from t={sampling.start}"
            steps = f"{sampling.sampler} {sampling.steps} step{'' if sampling.steps == 1 else 's'}{start}"
            parts.append("" if fidelity is None else f"fidelity {fidelity:g}")
            parts.append(steps if sampling.steps else "encoder's image")
            parts.append("" if sampling.spacing == "linspace" else sampling.spacing)
            parts.append(f"{sampling.encoder_share:.0%} encoder" if sampling.encoder_share else "")
        return ", ".join(filter(None, parts))

    @property
    def folder_name(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.-]+", "_", self.label).strip("._") or "unnamed"


def bicubic_method(scale: int) -> Method:
    """MATLAB's bicubic enlargement, the baseline."""
    return Method(kind="bicubic", enlarge=lambda pair, seed: imresize(pair.lr.float() / 255, scale))


def model_methods(
    resolver: SuperResolver, *, name: str, settings: Sequence[Setting] | None = None
) -> list[Method]:
    """The encoder alone, then the model at each setting of :func:`sampling_grid`; None is its default."""
    identity = f"{resolver!r} {resolver.config}"

    def method(kind: MethodKind, setting: Setting | None, sampling: SamplingConfig) -> Method:
        # a copy whose default is the setting: there is no other way to choose the spacing
        model = copy.copy(resolver)
        model.config = replace(resolver.config, sampling=sampling)

        def enlarge(pair: Pair, seed: int) -> Tensor:
            return model.upscale_tensor((pair.lr.float() / 255).to(model.device), seeds=[seed])

        return Method(kind=kind, name=name, setting=setting, enlarge=enlarge, identity=identity)

    default = resolver.config.sampling
    settings = [Setting(sampling=default)] if settings is None else settings
    encoder = method("encoder", None, replace(default, steps=0))
    return [encoder, *(method("model", setting, setting.sampling) for setting in settings)]


def results_method(hr_files: Sequence[PathLike], results: Sequence[PathLike], *, name: str) -> Method:
    """Files made elsewhere, one per truth, of its size or of that of the cropped truth.

    They are cropped as the truth is. The truths must have different file names.
    """
    by_name = {Path(hr).name: Path(result) for hr, result in zip(hr_files, results, strict=True)}

    def enlarge(pair: Pair, seed: int) -> Tensor:
        file, (height, width) = by_name[pair.name], pair.hr.shape[-2:]
        image = read_image(file)
        size, scale = (image.shape[-2], image.shape[-1]), height // pair.lr.shape[-2]
        check_size(file, [size], pair.name, pair.full_size, scale=scale, result=True)
        return image[..., :height, :width].contiguous()

    files = tuple(by_name.values())
    folder = str(files[0].parent.resolve()) if files else ""
    return Method(kind="images", name=name, enlarge=enlarge, identity=folder, files=files)


def folder_methods(
    folders: Sequence[tuple[str, PathLike]], hr_files: Sequence[PathLike], *, scale: int
) -> list[Method]:
    """One method per pair of a name and a folder of results.

    Raises:
        ImageError: No such folder, or a result is missing, ambiguous or of a wrong size.
    """
    methods: list[Method] = []
    for name, folder in folders:
        files = match_files(hr_files, find_images(folder), scale=scale, what=f"a result in {folder}")
        check_sizes(hr_files, files, scale=scale, result=True)
        methods.append(results_method(hr_files, files, name=name))
    return methods


def sampling_grid(
    config: ResolverConfig,
    *,
    samplers: Sequence[SamplerName] | None = None,
    steps: Sequence[int] | None = None,
    starts: Sequence[Start] | None = None,
    fidelities: Sequence[float] | None = None,
    spacings: Sequence[Spacing] | None = None,
) -> list[Setting]:
    """All combinations of samplers, steps, starts or fidelities, and spacings.

    Omitted lists take the model's default or what a fidelity chooses. Combinations with more steps than
    timesteps are left out and logged.

    Raises:
        ArgumentError: An unknown sampler; a start, fidelity or steps out of range; starts and fidelities
            together; or no combination is possible.
        ConfigError: An unknown spacing.
    """
    grid: list[Setting] = []
    for start, fidelity in product(starts or [None], fidelities or [None]):
        first = resolve_settings(config, start=start, fidelity=fidelity, steps=0).sampling.start
        most = config.schedule.timesteps if first is None else first + 1
        for sampler, count in product(samplers or [None], steps or [None]):
            if count is not None and most < count <= config.schedule.timesteps:
                logger.info("left out: %d steps from start %s, which has only %d", count, first, most)
                continue
            settings = resolve_settings(config, sampler=sampler, steps=count, start=start, fidelity=fidelity)
            sampling = settings.sampling
            for spacing in spacings or [sampling.spacing]:
                setting = Setting(sampling=replace(sampling, spacing=spacing), fidelity=fidelity)
                grid += [setting] if setting not in grid else []
    if not grid:
        raise ArgumentError("no combination of steps and start is possible; use fewer steps or a later start")
    return grid


def split_labels(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Split each ``NAME=VALUE``; a value alone is named after itself, or after the last part of its path.

    An existing file or folder is never split. Names must differ.
    """
    labelled: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value) or Path(text).exists():
            name, value = (Path(text).resolve().name if Path(text).exists() else text), text
        if name in labelled:
            raise ArgumentError(
                f"{labelled[name]} and {value} are both called {name}; give one another name, like "
                f"second={value}"
            )
        labelled[name] = value
    return list(labelled.items())


def common_scale(scales: Sequence[int], *, asked: int | None = None) -> int:
    """The one scale of a comparison: the models', else the one asked for, else the default of a model."""
    wanted = set(scales) if asked is None else {*scales, asked}
    if len(wanted) > 1:
        given = " and ".join(map(str, sorted(wanted)))
        raise ArgumentError(f"a comparison is at one scale, got {given}; evaluate them separately")
    scale = wanted.pop() if wanted else ModelConfig().scale
    if scale < 2:
        raise ArgumentError(f"scale must be at least 2, got {scale}")
    return scale
