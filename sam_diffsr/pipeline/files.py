"""Upscales files with one model and one set of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict

from PIL import Image

from sam_diffsr.image import MAX_PIXELS_DEFAULT, Animation, DecodedImage, decode_frames
from sam_diffsr.image.jobs import Job
from sam_diffsr.image.save import Quality
from sam_diffsr.pipeline.batch import PIXELS_TOGETHER, Existing, Outcome, run_jobs
from sam_diffsr.pipeline.images import output_size
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.tiles import CPU_BATCH_PIXELS

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FileOptions", "FileUpscaler"]


class FileOptions(TypedDict, total=False):
    """What :func:`~sam_diffsr.pipeline.batch.run_jobs` does with files."""

    batch_size: int | None
    existing: Existing
    quality: Quality | None
    strip_metadata: bool
    keep_time: bool
    dry_run: bool


def _model_factor(height: int, width: int) -> float | None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileUpscaler:
    """A model with the options of a list of files. It can be pickled where ``factor`` can."""

    resolver: SuperResolver
    seed: int = 0
    """Seed of every file, so that a result does not depend on the other files."""
    factor: Callable[[int, int], float | None] = _model_factor
    """Final factor of an image by its height and width; None is the model's own."""
    max_pixels: int | None = MAX_PIXELS_DEFAULT
    """Largest image that is read; None for no limit."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of :meth:`SuperResolver.upscale`."""
    watch: Callable[[int], AbstractContextManager[Mapping[str, Any]]] = lambda count: nullcontext({})
    """Gives arguments of ``upscale`` while so many files are computed, such as its ``callback``."""

    def run(self, jobs: Sequence[Job], **files: Unpack[FileOptions]) -> Iterator[Outcome]:
        """Do jobs as :func:`~sam_diffsr.pipeline.batch.run_jobs` does."""
        # A CPU gains little from batches: there, results are saved as soon as they are made.
        together = CPU_BATCH_PIXELS if self.resolver.device.type == "cpu" else PIXELS_TOGETHER
        return run_jobs(
            jobs,
            self._enlarge,
            decode=lambda source: decode_frames(source, max_pixels=self.max_pixels),
            result_size=self._result_size,
            pixels_together=together,
            **files,
        )

    def _result_size(self, height: int, width: int) -> tuple[int, int]:
        scale, factor = self.resolver.scale, self.factor(height, width)
        size = output_size(height, width, scale=scale, outscale=factor, max_pixels=self.max_pixels)
        return size or (height * scale, width * scale)

    def _enlarge(self, images: list[DecodedImage | Animation]) -> list[Image.Image]:
        """Those of one factor together, animations one by one."""
        resolver: Any = self.resolver  # whose public methods take images before they are decoded
        results: list[Image.Image] = []

        def together(image: DecodedImage | Animation) -> tuple[object, float | None]:
            return isinstance(image, Animation) and id(image), self.factor(*image.rgb.shape[-2:])

        for (moving, factor), found in groupby(images, together):
            group = list(found)
            with self.watch(len(group)) as further:
                options: dict[str, Any] = {
                    "progress": False,
                    "max_pixels": self.max_pixels,
                    "outscale": factor,
                }
                options |= {**self.options, **further}
                if moving:
                    results.append(resolver.upscale_animation(group[0], seed=self.seed, **options))
                else:
                    results += resolver.upscale(group, seed=[self.seed] * len(group), **options)
        return results
