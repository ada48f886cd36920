"""SuperResolver: loads a model and upscales images with it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.arguments import Seeds, explains_names, resolve_seeds
from sam_diffsr.device import Precision, network_layout, resolve_device, resolve_dtype
from sam_diffsr.diffusion import NoiseSchedule, SamplerName
from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.hub import HubOptions, push_folder
from sam_diffsr.image import MAX_PIXELS_DEFAULT, Animation, DecodedImage, ImageInput
from sam_diffsr.image.animation import decode_frames, join_frames
from sam_diffsr.models import DiffSR, build_model
from sam_diffsr.models.weights import fingerprint
from sam_diffsr.overlap import overlapped
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import CARD_NAME, DEFAULT_MODEL, load_pretrained, save_pretrained_folder
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.images import Picture, check_tensor
from sam_diffsr.pipeline.run import super_resolve
from sam_diffsr.pipeline.settings import RunOptions, Settings, Start, resolve_settings
from sam_diffsr.pipeline.tiles import CPU_BATCH_PIXELS, LARGEST_BATCH, divide
from sam_diffsr.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from sam_diffsr.pipeline.settings import MovingOptions, UpscaleOptions

PathLike = str | os.PathLike[str]
Array = NDArray[Any]
ResolverT = TypeVar("ResolverT", bound="SuperResolver")

logger = logging.getLogger(__name__)

_CLEAN_JPEG = 90
"""Quality from which a JPEG counts as clean."""
_PIXELS_TOGETHER = 2**16
"""LR pixels of the images of a list that a GPU computes together."""


class SuperResolver:
    """A trained model on a device, which enlarges images.

    Args:
        model: networks with trained weights. They are moved and cast in place and set to evaluation mode.
        config: the config of these weights; ``config.model`` must equal ``model.config``.
        device: ``"auto"`` takes CUDA, else MPS, else the CPU.
        dtype: ``"fp32"``, ``"fp16"``, ``"bf16"`` or a ``torch.dtype``; ``"auto"`` is float16 on CUDA, where a
            result that is not finite is computed again in float32, and float32 elsewhere.
        name: of the model, for ``repr``.

    Raises:
        ArgumentError: the config belongs to another model, or the device or dtype is not available.
    """

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
        self.name, self.config = name, config
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.fingerprint = fingerprint(model)
        """Of the weights, before they were cast."""
        self.model: DiffSR = model.eval()
        self.schedule = NoiseSchedule.from_config(config.schedule)
        """Tables of the diffusion process."""
        self._warned = False
        self._place()

    def to(self, target: str | torch.device | torch.dtype) -> Self:
        """Move or cast the networks in place, and return the resolver; arguments are those of the class.

        A new device keeps the type, except that float16 becomes float32 on a CPU. Weights that were cast to a
        narrower type do not become exact again.
        """
        if isinstance(target, torch.dtype) or target in ("fp32", "fp16", "bf16"):
            self.dtype = resolve_dtype(cast("Precision | torch.dtype", target), self.device)
        else:
            self.device = resolve_device(target)
            if self.device.type == "cpu" and self.dtype == torch.float16:
                self.dtype = torch.float32
        self._place()
        return self

    def _place(self) -> None:
        self.model.to(device=self.device, dtype=self.dtype)
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            self.model.encoder.widen_head()
        self.model.to(memory_format=network_layout(self.device))
        self.device = next(self.model.parameters()).device  # as tensors name it: mps:0 for mps
        self.schedule.to(self.device)

    @classmethod
    @explains_names()
    def from_pretrained(
        cls: type[ResolverT],
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
    ) -> ResolverT:
        """Load trained weights.

        Args:
            pretrained_model_name_or_path: None for the default bundled model (no network); a bundled name, or
                its last word, such as ``"small"``; a folder with ``config.json`` and ``model.safetensors``; a
                ``.safetensors`` file with a ``config.json`` next to it or in its header; or a Hub id
                ``"owner/name"``. They are tried in this order.
            revision: branch, tag or commit on the Hub.
            subfolder: folder inside the folder or repository.
            cache_dir: download cache; None is the Hub client's own.
            token: access token for the Hub; None uses the one that is logged in.
            force_download: download files again that are in the cache.
            local_files_only: use the cache only.
            device: as for the class.
            dtype: as for the class.

        Raises:
            ModelLoadError: the model does not exist, cannot be reached or read, or is pickled.
            CheckpointMismatchError: keys or shapes are not those of the configured model.
            ConfigError: the config has an unknown key or a value out of range.
            ArgumentError: the device or dtype is not available, or arguments exclude each other.
        """
        device = resolve_device(device)  # an error comes before a download
        dtype = resolve_dtype(dtype, device)
        hub = HubOptions(
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, state_dict = load_pretrained(pretrained_model_name_or_path, hub)
        # The initial weights, all replaced below, must not use up the caller's random numbers.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = build_model(config.model)
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

    @overload
    def upscale(
        self, image: Image.Image | PathLike | IO[bytes], **options: Unpack[UpscaleOptions]
    ) -> Image.Image: ...

    @overload
    def upscale(self, image: Array, **options: Unpack[UpscaleOptions]) -> Array: ...

    @overload
    def upscale(
        self, image: Sequence[ImageInput], **options: Unpack[UpscaleOptions]
    ) -> list[Image.Image | Array]: ...

    @explains_names()
    def upscale(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        seed: Seeds = 0,
        ensemble: bool = False,
        tile: int | Literal["auto"] = "auto",
        halo: int | None = None,
        batch_size: int | None = None,
        max_memory: int | None = None,
        wrap: bool = False,
        outscale: float | None = None,
        max_pixels: int | None = MAX_PIXELS_DEFAULT,
        progress: bool | None = None,
        callback: ProgressCallback | None = None,
    ) -> Image.Image | Array | list[Image.Image | Array]:
        """Enlarge one image or a list of them.

        A result depends on the image, the seed and the sampling alone: not on torch's global state or, up to
        rounding, on the list, tiles and batches. Problems that can be seen without decoding (a missing file,
        a size, a type) are reported before any work.

        Args:
            image: a PIL image of any mode; an array ``(H, W)`` or ``(H, W, C)`` of uint8, uint16 or float in
                [0, 1]; a path; an open binary file; or a list of these. Any size from 1 x 1.
            steps: denoising steps; 0 gives the encoder's image alone; None takes the model's own.
            sampler: ``"ddpm"``, ``"ddim"`` or ``"dpmpp_2m"``; None takes the model's own.
            start: timestep to start from with the encoder's image plus noise, or ``"noise"`` for pure noise;
                None takes the model's own. With a given start nothing of the encoder's image is blended in.
            fidelity: instead of ``start``, from 1 (faithful and smooth, highest PSNR) to 0 (most texture);
                sampler and steps follow unless given. See ``docs/models.md``.
            seed: seed of the noise. Image ``i`` of a list takes ``seed + i``, or the i-th of a list of seeds.
            ensemble: average the results of the eight turned and mirrored inputs; eight times the work.
            tile: side of the tiles in input pixels; 0 for none, ``"auto"`` to fit them into the memory. If it
                runs out, tiles are halved and finished ones kept.
            halo: input pixels around a tile that its result is computed from as well; None takes the model's
                own, with which tiles cannot be told from the whole image.
            batch_size: tiles or images of equal size that are computed together; None chooses.
            max_memory: bytes that the computation may take on the device, in addition to weights, input and
                output; None takes half of what is free.
            wrap: the image is a seamless texture, whose borders continue at the opposite ones.
            outscale: final factor; if it is not the model's own, the result is resized bicubically.
            max_pixels: refuse larger input images; None for no limit.
            progress: draw a progress bar; None draws it in notebooks and where standard error is a terminal.
            callback: called after every step of a tile with the steps done, the steps in all and a function
                that makes the current estimate ``(B, 3, H, W)`` of the images in work. It cancels the work by
                returning False or raising.

        Returns:
            The same kind as the input (a PIL image for a path or file, a list for a list), ``scale`` times as
            large unless ``outscale`` is given, with the same mode, bit depth, transparency and metadata (in
            ``info``, from where :func:`~sam_diffsr.save_image` writes it).

        Raises:
            ImageError: an image cannot be read or has a wrong rank, type or range.
            ArgumentError: an argument is out of range.
            CancelledError: the callback cancelled the work.
            DeviceMemoryError: not even the smallest tile fits into memory, or into ``max_memory``.
            NumericalError: the networks produced NaN or infinity, in float32 too.
        """
        single = not isinstance(image, list | tuple)
        images = cast("list[ImageInput]", [image] if single else list(image))  # pyright: ignore[reportArgumentType]
        seeds = resolve_seeds(seed, len(images))
        settings = resolve_settings(
            self.config,
            sampler=sampler,
            steps=steps,
            start=start,
            fidelity=fidelity,
            ensemble=ensemble,
            tile=tile,
            halo=halo,
            batch_size=batch_size,
            max_memory=max_memory,
            wrap=wrap,
        )
        make = partial(Picture, scale=self.scale, outscale=outscale, max_pixels=max_pixels, wrap=wrap)
        pictures = [  # problems that the headers show come before any work
            make(item, seed, None if len(images) == 1 else index)
            for index, (item, seed) in enumerate(zip(images, seeds, strict=True))
        ]

        def read(batch: list[Picture]) -> list[Picture]:
            for picture in batch:
                picture.decode()
                self._warn_of_compression(picture.decoded)
            return batch

        def compute(batch: list[Picture]) -> list[Picture]:
            if len({picture.size for picture in batch}) > 1:  # a header was wrong about a size
                return [picture for each in batch for picture in compute([each])]
            lr = torch.cat([picture.decoded.rgb for picture in batch])
            dtype = torch.uint8 if all(picture.is_plain for picture in batch) else torch.float32
            own = [picture.seed for picture in batch]
            sr = super_resolve(
                self.model, self.config, self.schedule, lr, own, settings, reporter, dtype=dtype
            )
            for picture, result in zip(batch, sr, strict=True):
                picture.sr = result[None]
            return batch

        def write(batch: list[Picture]) -> None:
            for picture in batch:
                picture.encode()

        batches = self._batches(pictures, settings)
        total = sum(len(batch) * self._steps(batch[0].size, settings) for batch in batches)
        with Progress(show=progress, callback=callback, total=total) as reporter:
            if len(batches) == 1:  # warnings name the caller's line
                write(compute(read(batches[0])))
            else:
                for _ in overlapped(batches, read=read, compute=compute, write=write):
                    pass
        results = [picture.result for picture in pictures]
        return results[0] if single else results

    __call__ = upscale

    def _batches(self, pictures: Sequence[Picture], settings: Settings) -> list[list[Picture]]:
        """Pictures of equal size that are computed together."""
        pixels = CPU_BATCH_PIXELS if self.device.type == "cpu" else _PIXELS_TOGETHER
        groups: dict[tuple[int, int], list[Picture]] = {}
        for picture in pictures:
            groups.setdefault(picture.size, []).append(picture)
        batches: list[list[Picture]] = []
        for (height, width), group in groups.items():
            most = settings.batch_size or max(1, min(LARGEST_BATCH, pixels // (height * width)))
            batches += [group[first : first + most] for first in range(0, len(group), most)]
        return batches

    def _steps(self, size: tuple[int, int], settings: Settings) -> int:
        """Steps that progress is going to count for an image of this size."""
        grid = divide(self.config, settings, *size, parameter=next(self.model.parameters()))
        return len(grid.tiles()) * settings.steps_per_tile

    def _warn_of_compression(self, image: DecodedImage) -> None:
        """Say once per resolver that a model of clean images meets a compressed one."""
        quality = image.format.jpeg_quality or 100
        if self.config.degradation == "bicubic" and quality < _CLEAN_JPEG and not self._warned:
            self._warned = True
            logger.warning(
                "a JPEG of quality about %d meets a model for clean images, which sharpens its blocks too; "
                "the model 'photo' removes them",
                quality,
            )

    def upscale_animation(
        self, animation: Animation | PathLike | IO[bytes], *, seed: int = 0, **options: Unpack[MovingOptions]
    ) -> Image.Image:
        """Enlarge a GIF, an APNG or an animated WebP, every frame with the same noise.

        It is a path, an open binary file, or the result of :func:`~sam_diffsr.image.decode_frames`. What
        stands still does not flicker. Other arguments and errors are those of :meth:`upscale`.

        Returns:
            The first frame, with the others, the durations and the number of loops in its ``info``;
            :func:`~sam_diffsr.save_image` writes it as PNG, WebP or GIF.
        """
        if not isinstance(animation, Animation):
            decoded = decode_frames(animation, max_pixels=options.get("max_pixels", MAX_PIXELS_DEFAULT))
            if not isinstance(decoded, Animation):
                raise ImageError(f"{animation} is not an animation; use upscale")
            animation = decoded
        large = self.upscale(animation.frames, seed=[seed] * len(animation.frames), **options)
        return join_frames(cast("list[Image.Image]", large), animation)

    @explains_names(*RunOptions.__annotations__)
    def upscale_tensor(
        self,
        lr: Tensor,
        *,
        seeds: Seeds = 0,
        progress: bool | None = False,
        callback: ProgressCallback | None = None,
        **options: Unpack[RunOptions],
    ) -> Tensor:
        """Enlarge a batch of images of equal size.

        Args:
            lr: ``(B, 3, H, W)`` float32 in [0, 1], RGB, any H, W >= 1, on ``self.device``.
            seeds: one per image, or that of the first one, as for :meth:`upscale`.
            progress: draw a progress bar.
            callback: as in :meth:`upscale`.
            **options: arguments of :meth:`upscale` from ``steps`` to ``wrap``, except ``seed``.

        Returns:
            ``(B, 3, H * scale, W * scale)`` float32 in [0, 1], on ``self.device``.

        Raises:
            ImageError: not such a tensor. Others as in :meth:`upscale`.
        """
        settings = resolve_settings(self.config, **options)
        check_tensor(lr, device=self.device)
        seeds = resolve_seeds(seeds, len(lr))
        total = len(lr) * self._steps((lr.shape[-2], lr.shape[-1]), settings)
        with Progress(show=progress, callback=callback, total=total) as reporter:
            sr = super_resolve(self.model, self.config, self.schedule, lr, seeds, settings, reporter)
        return sr.contiguous()

    def save_pretrained(
        self, folder: PathLike, *, dtype: Precision | torch.dtype | None = None, card: str | None = None
    ) -> None:
        """Write a folder that :meth:`from_pretrained` loads, its files at once when all are complete.

        ``dtype`` is the floating type to store; None keeps that of the networks. ``card`` is the text of
        ``README.md``; None writes one if there is none.

        Raises:
            ArgumentError: another ``dtype`` than those of the class.
            OutputError: the folder cannot be written.
        """
        if card is None and not (Path(folder) / CARD_NAME).exists():
            card = model_card(self.config, name=Path(folder).resolve().name)
        save_pretrained_folder(folder, self.config, self.model.state_dict(), card=card, dtype=dtype)

    def export_onnx(self, folder: PathLike, *, half: bool = False) -> float:
        """Write ``encoder.onnx`` and ``denoiser.onnx``; see :func:`sam_diffsr.pipeline.onnx.export_onnx`."""
        from sam_diffsr.pipeline.onnx import export_onnx

        return export_onnx(self.model, self.config, folder, half=half)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a sam_diffsr model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        dtype: Precision | torch.dtype | None = None,
        card: str | None = None,
    ) -> str:
        """Upload config, weights and card as one commit, and return its address or the pull request's.

        The repository ``"owner/name"`` and the branch ``revision`` (None is ``main``) are created if needed.
        ``private=None`` leaves the visibility to the owner's settings, ``token=None`` uses the one that is
        logged in. ``dtype`` and ``card`` are those of :meth:`save_pretrained`.

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
