"""Handlers of the browser page without the page: size and time of a job, upscaling, cancelling."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from sam_diffsr.device import Precision
from sam_diffsr.errors import CancelledError, ImageTooLargeError, SamDiffsrError
from sam_diffsr.image import (
    MAX_PIXELS_DEFAULT,
    DecodedImage,
    check_output,
    decode_image,
    image_size,
    save_image,
)
from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL, available_models
from sam_diffsr.pipeline.images import output_size
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.settings import resolve_settings

_PROBE_SIDE = 64
"""Side of the image that is upscaled once to learn how fast the machine is."""
_VIEW_SIDE = 4096
"""Longest side of an image that the page shows; the file for download has all pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Settings of the page."""

    model: str = DEFAULT_MODEL
    """One of the worker's models."""
    fidelity: float | None = None
    """From 0 to 1; None takes the model's own sampling."""
    outscale: float = 4
    """Final factor of each side."""
    seed: int = 0
    """Seed of the noise."""
    extension: str = "png"
    """File type of the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """An upscaled image."""

    path: Path
    """The file, in full quality and with the metadata of the input."""
    views: tuple[Path, ...]
    """The input, bicubically enlarged, and the result, to look at; empty if nobody looks."""
    size: tuple[int, int]
    """Height and width."""
    seconds: float
    """Time of the whole job."""


class Worker:
    """Upscales one image after the other, for any number of visitors.

    Results lie in ``folder``, which the caller removes. ``model`` (folder, file or Hub id) is offered before
    the bundled ones; ``device`` and ``dtype`` are those of :class:`SuperResolver`; larger inputs than
    ``max_pixels`` are refused.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: Precision = "auto",
        max_pixels: int = MAX_PIXELS_DEFAULT,
    ) -> None:
        bundled = sorted(available_models(), key=lambda name: name != DEFAULT_MODEL)
        self.models = bundled if model is None else [model, *(name for name in bundled if name != model)]
        """Names to choose from, the default first."""
        self.jobs: set[str] = set()
        """Waiting and running jobs; one that is taken out is cancelled at its next step."""
        self.max_pixels = max_pixels
        self._folder = folder
        self._options: dict[str, Any] = {"device": device, "dtype": dtype}
        self._resolvers: dict[str, SuperResolver] = {}
        self._rates: dict[tuple[str, int], float] = {}  # seconds per input pixel of a model and its steps
        self._busy, self._loading = threading.Lock(), threading.Lock()

    def load(self, model: str) -> SuperResolver:
        """Load one of the models, or give the one that is loaded."""
        with self._loading:
            if model not in self._resolvers:
                self._resolvers[model] = SuperResolver.from_pretrained(model, **self._options)
        return self._resolvers[model]

    def describe(self, path: str | Path, choices: Choices) -> str:
        """One sentence about a job: sizes in pixels and the time to expect.

        Raises:
            SamDiffsrError: the image cannot be upscaled, or the model cannot be loaded.
        """
        height, width = self._input_size(path)
        large = self._output_size(height, width, choices)
        text = f"{width} × {height} pixels become {large[1]} × {large[0]}"
        seconds = self._estimate(choices, height * width)
        return f"{text}." if seconds is None else f"{text}, in about {_spoken(seconds)}."

    def upscale(
        self,
        path: str | Path,
        choices: Choices,
        *,
        job: str,
        report: Callable[[float], object],
        views: bool = True,
    ) -> Result:
        """Upscale one image for a job in :attr:`jobs`.

        ``report`` is called after every step with the finished share of the work, from 0 to 1. ``views``
        makes the pictures to look at.

        Raises:
            CancelledError: the job was cancelled.
            SamDiffsrError: the image cannot be read or upscaled, or the result cannot be saved.
        """

        def step(done: int, total: int, preview: object) -> bool:
            report(done / total)
            return job in self.jobs

        with self._busy, _short_names(path):
            if job not in self.jobs:
                raise CancelledError("the job was cancelled before it started")
            started = time.perf_counter()
            self._input_size(path)
            source = decode_image(path, max_pixels=self.max_pixels)
            height, width = source.rgb.shape[-2:]
            pixels = height * width
            height, width = self._output_size(height, width, choices)
            name = f"{Path(path).stem}_x{choices.outscale:g}.{choices.extension}"
            target = Path(tempfile.mkdtemp(dir=self._folder), name)
            check_output(target, source.format, width=width, height=height)
            image = self.load(choices.model).upscale(
                cast("Image.Image", source),
                fidelity=choices.fidelity,
                seed=choices.seed,
                outscale=choices.outscale,
                max_pixels=self.max_pixels,
                progress=False,
                callback=step,
            )
            if pixels >= _PROBE_SIDE**2:
                self._rates[self._kind(choices)] = (time.perf_counter() - started) / pixels
            save_image(image, target)
            shown = (target.parent / "before.jpg", target.parent / "after.jpg") if views else ()
            if shown:
                after = _visible(image)
                save_image(_visible(source).resize(after.size, Image.Resampling.BICUBIC), shown[0])
                save_image(after, shown[1])
            seconds = time.perf_counter() - started
        return Result(path=target, views=shown, size=(height, width), seconds=seconds)

    def upscale_all(
        self, paths: Sequence[str | Path], choices: Choices, *, job: str, report: Callable[[float], object]
    ) -> Iterator[tuple[str, Result | SamDiffsrError]]:
        """Upscale several images, without views; a bad one does not stop the others, cancelling does.

        Yields:
            The name of each file, and its result or its error.
        """
        for index, path in enumerate(paths):

            def report_all(share: float, index: int = index) -> None:
                report((index + share) / len(paths))

            try:
                yield Path(path).name, self.upscale(path, choices, job=job, report=report_all, views=False)
            except CancelledError:
                return
            except SamDiffsrError as error:
                yield Path(path).name, error

    def _input_size(self, path: str | Path) -> tuple[int, int]:
        try:
            with _short_names(path):
                return image_size(path, max_pixels=self.max_pixels)
        except ImageTooLargeError as error:
            raise ImageTooLargeError(
                f"{Path(path).name} has more than {self.max_pixels / 1e6:g} megapixels, the limit of this "
                "page; reduce it first, or start the page with a larger --max-pixels"
            ) from error

    def _output_size(self, height: int, width: int, choices: Choices) -> tuple[int, int]:
        scale = self.load(choices.model).scale
        return output_size(height, width, scale=scale, outscale=choices.outscale, max_pixels=self.max_pixels)

    def _kind(self, choices: Choices) -> tuple[str, int]:
        config = self.load(choices.model).config
        return choices.model, resolve_settings(config, fidelity=choices.fidelity).sampling.steps

    def _estimate(self, choices: Choices, pixels: int) -> float | None:
        """Seconds by the last job of this kind, or by a small image; None while another job is running."""
        kind = self._kind(choices)
        if kind not in self._rates and self._busy.acquire(blocking=False):
            try:
                gray = Image.new("RGB", (_PROBE_SIDE, _PROBE_SIDE), "gray")
                resolver = self.load(choices.model)
                for _ in range(2):  # the first run also allocates and compiles
                    started = time.perf_counter()
                    resolver.upscale(gray, fidelity=choices.fidelity, progress=False)
                    self._rates[kind] = (time.perf_counter() - started) / _PROBE_SIDE**2
            finally:
                self._busy.release()
        rate = self._rates.get(kind)
        return None if rate is None else rate * pixels


def _visible(image: Image.Image | DecodedImage) -> Image.Image:
    """An image of any kind as 8-bit RGB of a size to look at; what is transparent becomes white."""
    if isinstance(image, Image.Image):
        image.thumbnail((_VIEW_SIDE, _VIEW_SIDE))
        image = decode_image(image)
    rgb = image.rgb if image.alpha is None else 1 + (image.rgb - 1) * image.alpha
    return Image.fromarray(rgb[0].permute(1, 2, 0).mul(255).round().byte().numpy())


@contextlib.contextmanager
def _short_names(path: str | Path) -> Generator[None]:
    """Take the folder of a file, which visitors do not know, out of error messages."""
    try:
        yield
    except SamDiffsrError as error:
        raise type(error)(str(error).replace(str(path), Path(path).name)) from error


def _spoken(seconds: float) -> str:
    for unit, name in ((3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.0f} {name}s"
    return "a second" if seconds < 1.5 else f"{seconds:.0f} seconds"
