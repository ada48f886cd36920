"""SuperResolver: weights and config in, enlarged images out."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.errors import ArgumentError, NumericalError
from sam_diffsr.image import MAX_PIXELS_DEFAULT, DecodedImage, ImageInput
from sam_diffsr.pipeline.compiled import CompileReport, compile_denoiser
from sam_diffsr.pipeline.output import decode_input, encode_output, input_size, output_size
from sam_diffsr.pipeline.overlap import overlapped
from sam_diffsr.pipeline.planning import Halos, plan_batches
from sam_diffsr.pipeline.prepare import (
    check_tensor,
    resolve_halo,
    resolve_limit,
    resolve_sampling,
    resolve_seeds,
    resolve_tile,
)
from sam_diffsr.pipeline.pretrained import PathLike, PretrainedModel
from sam_diffsr.pipeline.progress import Progress, ProgressCallback
from sam_diffsr.pipeline.run import RunOptions, run_batch

__all__ = ["SuperResolver"]

_LOGGER = logging.getLogger(__name__)

Start = int | Literal["noise"] | None
Array = NDArray[Any]


class SuperResolver(PretrainedModel):
    """Enlarges images with a trained network.

    Args:
        model: the networks with trained weights. They are moved and cast in place and set to evaluation mode.
        config: what belongs to these weights; ``config.model`` must be the model's own.
        device: ``"auto"`` takes CUDA, else MPS, else the CPU.
        dtype: floating type of the networks: ``"auto"``, ``"fp32"``, ``"fp16"``, ``"bf16"`` or a
            ``torch.dtype``. ``"auto"`` is float16 on CUDA, where a result that is not finite is computed
            again in float32, and float32 elsewhere.
        name: what ``repr`` and the model card call it.

    Raises:
        ArgumentError: the config is that of another model, or the device or dtype cannot be had.
    """

    @overload
    def upscale(
        self,
        image: Image.Image | PathLike,
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        seed: int | Sequence[int] = 0,
        tile: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        outscale: float | None = None,
        batch_size: int | None = None,
        max_memory: int | None = None,
        max_pixels: int | None = MAX_PIXELS_DEFAULT,
        progress: bool | None = None,
        callback: ProgressCallback | None = None,
    ) -> Image.Image: ...

    @overload
    def upscale(
        self,
        image: Array,
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        seed: int | Sequence[int] = 0,
        tile: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        outscale: float | None = None,
        batch_size: int | None = None,
        max_memory: int | None = None,
        max_pixels: int | None = MAX_PIXELS_DEFAULT,
        progress: bool | None = None,
        callback: ProgressCallback | None = None,
    ) -> Array: ...

    @overload
    def upscale(
        self,
        image: Sequence[ImageInput],
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        seed: int | Sequence[int] = 0,
        tile: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        outscale: float | None = None,
        batch_size: int | None = None,
        max_memory: int | None = None,
        max_pixels: int | None = MAX_PIXELS_DEFAULT,
        progress: bool | None = None,
        callback: ProgressCallback | None = None,
    ) -> list[Image.Image | Array]: ...

    def upscale(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        seed: int | Sequence[int] = 0,
        tile: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        outscale: float | None = None,
        batch_size: int | None = None,
        max_memory: int | None = None,
        max_pixels: int | None = MAX_PIXELS_DEFAULT,
        progress: bool | None = None,
        callback: ProgressCallback | None = None,
    ) -> Image.Image | Array | list[Image.Image | Array]:
        """Enlarge one image or a list of them.

        Of a list, images of equal size are computed together; while one batch is computed, the next one is
        decoded and the one before it is encoded, and no more than that is held beside inputs and results.
        What can be seen without decoding (a missing file, a size, a type) is refused before any work;
        damaged pixels when they are reached.

        Args:
            image: a PIL image of any mode; an array ``(H, W)`` or ``(H, W, C)`` of uint8, uint16 or float in
                [0, 1]; a path; or a list of these. Any size from 1 x 1.
            steps: denoising steps; None takes the model's own.
            sampler: ``"ddpm"``, ``"ddim"`` or ``"dpmpp_2m"``; None takes the model's own.
            start: timestep to start from with the encoder's image plus noise, ``"noise"`` to start from pure
                noise; None takes the model's own.
            fidelity: instead of ``start``, from 1, the faithful answer (highest PSNR, smoother), to 0, full
                texture from pure noise; sampler and steps follow unless given. See ``docs/models.md``.
            seed: of the noise. For a list, image ``i`` takes ``seed + i``, or the i-th of a list of seeds.
                What comes out for an image depends on the image and its seed only.
            tile: side of the tiles in pixels of the input image; 0 for none, ``"auto"`` to fit them into the
                free memory (and say at INFO level what was chosen). Where memory runs out, tiles are halved.
            tile_overlap: pixels of the input image around a tile. From the network's receptive field on tiles
                change nothing; the default leaves differences that cannot be seen.
            outscale: final factor, if it is not the network's own: the result is resized bicubically.
            batch_size: images of equal size that are computed together; None takes 8, fewer on a CPU where
                they are not small, and fewer where they would not fit.
            max_memory: bytes that the computation may take on the device, beside the weights and what is
                there already: tiles are chosen to fit. None takes a good part of what is free.
            max_pixels: refuse larger input images; None for no limit.
            progress: draw a bar on standard error; None draws it if that is a terminal.
            callback: called after every step, and between the tiles of a step, with the steps done, the steps
                in all and a function that makes the current estimate ``(B, 3, H, W)`` of the batch.
                Returning False or raising stops the work there.

        Returns:
            The same kind as the input (a PIL image for a path), exactly ``scale`` times as large unless
            ``outscale`` is given, with the same mode, bit depth, transparency, EXIF and ICC data. A list
            for a list.

        Raises:
            ImageError: an image cannot be read or has a wrong rank, type or range.
            ArgumentError: an argument is out of range.
            CancelledError: the callback stopped the work.
            DeviceMemoryError: not even the smallest tile fits into memory, or into ``max_memory``.
            NumericalError: the networks produced NaN or infinity, in float32 too.
        """
        single = not isinstance(image, list | tuple)
        images: list[ImageInput] = [image] if single else list(image)  # pyright: ignore[reportAssignmentType]
        seeds = resolve_seeds(seed, len(images))
        options = RunOptions(
            sampling=resolve_sampling(
                self.config, sampler=sampler, steps=steps, start=start, fidelity=fidelity
            ),
            tile=resolve_tile(tile, self.scale),
            halos=Halos.both(resolve_halo(tile_overlap, scale=self.scale)),
            max_memory=resolve_limit(max_memory),
        )
        if batch_size is not None and batch_size < 1:
            raise ArgumentError(f"batch_size must be None or >= 1, got {batch_size}")
        index_of = [None] if len(images) == 1 else list(range(len(images)))  # for error messages
        final = partial(output_size, scale=self.scale, outscale=outscale, max_pixels=max_pixels)
        sizes = [
            input_size(item, index=index, max_pixels=max_pixels)
            for item, index in zip(images, index_of, strict=True)
        ]
        for size in sizes:
            final(*size)
        batches = plan_batches(
            self.config.model,
            sizes,
            batch_size=batch_size,
            tiled=options.tile != 0,
            itemsize=self.dtype.itemsize,
            device=self.device,
            limit=options.max_memory,
        )

        def read(batch: list[int]) -> list[tuple[int, DecodedImage]]:
            return [
                (index, decode_input(images[index], index=index_of[index], max_pixels=max_pixels))
                for index in batch
            ]

        def compute(batch: list[tuple[int, DecodedImage]]) -> list[tuple[int, DecodedImage, Tensor]]:
            groups: dict[tuple[int, ...], list[tuple[int, DecodedImage]]] = {}
            for index, item in batch:
                groups.setdefault(tuple(item.rgb.shape), []).append((index, item))
            reporter.expect((len(groups) - 1) * options.sampling.steps)  # a header was wrong about a size
            finished: list[tuple[int, DecodedImage, Tensor]] = []
            for group in groups.values():
                inputs = [item.rgb for _, item in group]
                lr = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
                seeds_of = [seeds[index] for index, _ in group]
                sr = self._run(lr, seeds=seeds_of, options=options, progress=reporter).cpu()
                finished += [(index, item, sr[row : row + 1]) for row, (index, item) in enumerate(group)]
            return finished

        def write(batch: list[tuple[int, DecodedImage, Tensor]]) -> dict[int, Image.Image | Array]:
            return {
                index: encode_output(rgb, item, scale=self.scale, size=final(*item.rgb.shape[-2:]))
                for index, item, rgb in batch
            }

        results: dict[int, Image.Image | Array] = {}
        total = options.sampling.steps * len(batches)
        with Progress(show=progress, callback=callback, total=total) as reporter:
            for finished in overlapped(batches, read=read, compute=compute, write=write):
                results.update(finished)
        return results[0] if single else [results[index] for index in range(len(images))]

    def upscale_tensor(
        self,
        lr: Tensor,
        *,
        seeds: Sequence[int],
        steps: int | None = None,
        sampler: SamplerName | None = None,
        start: Start = None,
        fidelity: float | None = None,
        tile: int | Literal["auto"] = "auto",
        tile_overlap: int | None = None,
        max_memory: int | None = None,
        progress: bool | None = False,
        callback: ProgressCallback | None = None,
    ) -> Tensor:
        """Enlarge a batch of images of equal size.

        Args:
            lr: ``(B, 3, H, W)`` float32 in [0, 1], RGB, any H, W >= 1, on ``self.device``.
            seeds: one an image; the result for an image depends on it and its seed only.
            steps: as in :meth:`upscale`, like everything below.
            sampler: see there.
            start: see there.
            fidelity: see there.
            tile: see there.
            tile_overlap: see there.
            max_memory: see there.
            progress: see there; no bar by default.
            callback: see there.

        Returns:
            ``(B, 3, H * scale, W * scale)`` float32 in [0, 1], on ``self.device``.

        Raises:
            ImageError: wrong rank, channels, dtype, device or range, or ``len(seeds) != B``.
            ArgumentError: an argument is out of range.
            CancelledError: the callback stopped the work.
            DeviceMemoryError: not even the smallest tile fits into memory, or into ``max_memory``.
            NumericalError: the networks produced NaN or infinity, in float32 too.
        """
        options = RunOptions(
            sampling=resolve_sampling(
                self.config, sampler=sampler, steps=steps, start=start, fidelity=fidelity
            ),
            tile=resolve_tile(tile, self.scale),
            halos=Halos.both(resolve_halo(tile_overlap, scale=self.scale)),
            max_memory=resolve_limit(max_memory),
        )
        check_tensor(lr, seeds=seeds, device=self.device)
        with Progress(show=progress, callback=callback, total=options.sampling.steps) as reporter:
            sr = self._run(lr, seeds=resolve_seeds(seeds, len(seeds)), options=options, progress=reporter)
        sr = sr.to(self.device)
        return sr.clone() if sr.is_inference() or not sr.is_contiguous() else sr

    def compile(self, *, size: int = 64, backend: str = "inductor") -> CompileReport:
        """Compile the denoiser by ``torch.compile``, and keep that only if it makes a step faster.

        Args:
            size: side of the low-resolution images or tiles to come; others are compiled anew at first use.
            backend: of ``torch.compile``.

        Returns:
            Whether it was kept and why, how long the warm-up took, and how much faster a step became.

        Raises:
            ArgumentError: the networks do not take this size.
        """
        report = compile_denoiser(self.model, size=size, backend=backend)
        _LOGGER.info("compiled in %.1f s: %s", report.warmup_seconds, report.reason)
        return report

    def _run(self, lr: Tensor, *, seeds: Sequence[int], options: RunOptions, progress: Progress) -> Tensor:
        """One batch; again in float32 if a narrower type was not enough."""
        done = progress.done
        try:
            return run_batch(
                self.model, self.config, self.schedule, lr, seeds=seeds, options=options, progress=progress
            )
        except NumericalError as error:
            if self.dtype == torch.float32:
                raise
            warnings.warn(f"{error}; computing this batch again in float32", RuntimeWarning, stacklevel=3)
        progress.rewind(done)
        model = copy.deepcopy(self.model).float()
        return run_batch(
            model, self.config, self.schedule, lr, seeds=seeds, options=options, progress=progress
        )
