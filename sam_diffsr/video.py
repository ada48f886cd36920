"""Videos: frames stream through a resolver in segments; sound and subtitles are copied (extra ``video``)."""

from __future__ import annotations

import heapq
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.errors import (
    ArgumentError,
    ImageError,
    ImageNotFoundError,
    MissingDependencyError,
    OutputError,
    SamDiffsrError,
)
from sam_diffsr.files import atomic_path
from sam_diffsr.image.formats import check_file
from sam_diffsr.pipeline.progress import Progress
from sam_diffsr.pipeline.settings import is_number

_INSTALLED = importlib.util.find_spec("av") is not None
if TYPE_CHECKING or _INSTALLED:
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.resolver import SuperResolver
    from sam_diffsr.pipeline.settings import MovingOptions

    Packet = av.Packet[Any]

__all__ = ["VideoResult", "upscale_video", "video_size"]

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""FFmpeg's formats of results by their endings."""
_MATRICES = (1, 4, 5, 6, 7, 9)
"""Colour matrices that are converted, by their numbers in ITU-T H.273."""
_BT709, _BT601, _RGB_OR_UNKNOWN = 1, 5, (0, 2)
_SD_LINES = 576
"""Players take a video that names no matrix for BT.601 up to so many lines, for BT.709 above."""
_LIMITED, _FULL = 1, 2
_BICUBIC_EXACT = 4 | 0x2000 | 0x40000
"""The converter's flags for bicubic chroma in full precision; its defaults shift colours by two levels."""
_HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range in H.273."""
_ANNOUNCED, _SLACK = ("mov", "matroska", "avi"), 1.0
"""Formats whose header gives the duration, which shows a missing end if it is longer than these seconds."""
_PIXELS_TOGETHER, _FRAMES_TOGETHER = 2**18, 8
_ANY_VALUE = ("tile", "batch_size", "max_memory")
"""Options that a stopped run may go on with other values of."""
_RECORD = "job.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """A video that was written."""

    frames: int
    """Frames in it."""
    resumed: int
    """Frames of these that an earlier run had finished."""
    size: tuple[int, int]
    """(height, width)."""


class _Segment(NamedTuple):
    """Finished frames in a file of their own: times of the first and the last one, and how many."""

    first: int
    last: int
    frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clip:
    """A video that can be upscaled. Times are counted in ticks from where players begin."""

    path: Path
    frame: av.VideoFrame
    """The first one, whose size and colours the others have too."""
    matrix: int
    color_range: int
    alpha: bool
    display: tuple[int, int, int, int]
    """(a, b, c, d): column x and row y are shown in column a x + c y and row b x + d y."""
    aspect: Fraction
    """Width of a pixel by its height, as stored."""
    tick: Fraction
    """Seconds."""
    origin: int
    """The file's own time of 0."""
    rate: Fraction
    """Frames per second, on average."""
    duration: Fraction
    """Seconds; 0 if unknown."""

    @property
    def turned(self) -> bool:
        """Whether rows are shown as columns."""
        return abs(self.display[1]) > abs(self.display[0])

    def upright(self, pixels: Pixels) -> Pixels:
        """Turn and mirror a frame as its display matrix asks."""
        a, b, c, d = self.display
        if self.turned:
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])

    def convert(self, frame: av.VideoFrame, pixel_format: str, *, source: int, target: int) -> av.VideoFrame:
        """Change the pixel format, from one colour range to another."""
        frame.colorspace = self.matrix
        return frame.reformat(
            format=pixel_format,
            src_color_range=source,
            dst_color_range=target,
            interpolation=_BICUBIC_EXACT,
        )


def video_size(source: PathLike) -> tuple[int, int]:
    """Height and width of a video as it is shown.

    Raises:
        ImageError: as for :func:`upscale_video`.
        MissingDependencyError: PyAV is not installed.
    """
    clip = _look(Path(source))
    height, width = clip.frame.height, clip.frame.width
    return (width, height) if clip.turned else (height, width)


def upscale_video(
    resolver: SuperResolver,
    source: PathLike,
    target: PathLike,
    *,
    start_time: float | None = None,
    end_time: float | None = None,
    crf: int = 18,
    lossless: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    strip_metadata: bool = False,
    segment_frames: int = 50,
    **options: Unpack[MovingOptions],
) -> VideoResult:
    """Enlarge a video, every frame with the same noise.

    Times of frames, colour matrix and range, shape of pixels (of H.264), audio, subtitles and metadata are
    kept; frames are turned upright. A few frames are in memory at a time. Finished segments wait in the
    folder ``{target}.parts``: after a stop the same call goes on behind them, and ``target`` appears when it
    is whole. H.264 is written in 8 bits, 4:2:0, with even sides (an odd last row or column is left out).

    Args:
        resolver: model that enlarges the frames.
        source: a video file that FFmpeg reads.
        target: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``.
        start_time: seconds at which to begin; audio and subtitles are cut too.
        end_time: seconds at which to end.
        crf: quality of H.264 from 0, the best, to 51.
        lossless: write FFV1 in ``.mkv``, which holds the 8-bit RGB results exactly, and transparency.
        seed: seed of the noise of every frame, so that what stands still is not made to flicker.
        overwrite: replace an existing target, and segments of a run with other settings.
        strip_metadata: leave out title, place, date and other metadata of the file.
        segment_frames: frames of a segment; a stop loses fewer.
        **options: further arguments of :meth:`SuperResolver.upscale`; ``progress`` and ``callback`` count
            frames.

    Raises:
        ImageError: not a video, no frame can be decoded, HDR, transparency for H.264, or a colour matrix that
            cannot be converted. Or the size changes or the file breaks off; the frames before are finished.
        OutputError: the target exists, cannot hold a stream of the source, or cannot be written.
        ArgumentError: an argument is out of range.
        MissingDependencyError: PyAV is not installed. Others are those of :meth:`SuperResolver.upscale`.
    """
    final = Path(os.path.realpath(target))
    _check_arguments(final, start_time, end_time, crf, lossless, segment_frames)
    clip = _look(Path(source))
    progress, callback = options.pop("progress", None), options.pop("callback", None)
    start, stop = (
        None if time is None else math.ceil(Fraction(str(time)) / clip.tick)
        for time in (start_time, end_time)
    )
    work = _Work(clip, final, start, stop, None if lossless else crf, strip_metadata)
    work.check_target(overwrite=overwrite)
    state = clip.path.stat()
    settings = {
        "source": [state.st_size, state.st_mtime_ns],
        "model": resolver.fingerprint,
        "start_time": start_time,
        "crf": work.crf,
        "seed": seed,
        **{name: value for name, value in options.items() if name not in _ANY_VALUE},
    }
    job = json.loads(json.dumps(settings, default=str))
    done = work.finished(job, overwrite=overwrite)
    resumed = sum(segment.frames for segment in done)
    if resumed:
        logger.info("%d frames are finished in %s; going on behind them", resumed, work.folder)
    seconds = (clip.duration if end_time is None else min(clip.duration, end_time)) - (start_time or 0)
    problems: list[ImageError] = []
    frames = _frames(clip, done[-1].last + 1 if done else start, stop, problems)
    try:
        with Progress(show=progress, callback=callback, total=max(1, round(seconds * clip.rate))) as reporter:
            reporter.rewind(resumed)
            large = _enlarged(resolver, clip, frames, {**options, "seed": seed}, reporter)
            work.record(job, done)
            while segment := work.encode(len(done), itertools.islice(large, segment_frames)):
                done.append(segment)
                work.record(job, done)
        if not done and not problems:
            problems.append(ImageError(f"{str(source)!r} has no frame between start_time and end_time"))
        if problems:
            raise problems[0]
        size = work.join(done)
    except (FFmpegError, OSError) as error:
        if isinstance(error, SamDiffsrError):
            raise
        raise OutputError(f"cannot write {str(final)!r}: {error.strerror or error}") from error
    finally:
        if not done:
            shutil.rmtree(work.folder, ignore_errors=True)
    shutil.rmtree(work.folder)
    return VideoResult(frames=sum(segment.frames for segment in done), resumed=resumed, size=size)


def _check_arguments(
    final: Path, start: float | None, end: float | None, crf: int, lossless: bool, segment_frames: int
) -> None:
    ending = final.suffix.lower()
    if ending not in _FORMATS or (lossless and ending != ".mkv"):
        kind, endings = ("lossless video", ".mkv") if lossless else ("video", ", ".join(_FORMATS))
        raise OutputError(f"cannot write {str(final)!r}: {kind} is written as {endings}")
    for name, value in (("start_time", start), ("end_time", end)):
        if value is not None and not (is_number(value) and 0 <= value < math.inf):
            raise ArgumentError(f"{name} must be None or seconds >= 0, got {value!r}")
    if end is not None and (start or 0) >= end:
        raise ArgumentError(f"start_time must be before end_time, got {start or 0:g} and {end:g}")
    for name, number, low, high in (("crf", crf, 0, 51), ("segment_frames", segment_frames, 1, 10**6)):
        if type(number) is not int or not low <= number <= high:
            raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {number!r}")


# Reading


@contextmanager
def _opened(path: Path) -> Generator[tuple[InputContainer, av.VideoStream], None, None]:
    """A video file and its stream of pictures; other files or addresses that it names are not opened."""
    if not _INSTALLED:
        raise MissingDependencyError("video needs PyAV: pip install 'sam-diffsr[video]'")
    if not path.exists():
        raise ImageNotFoundError(f"there is no file {str(path)!r}")
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except FFmpegError as error:
        raise ImageError(f"{str(path)!r} is cut off, damaged or no video: {error.strerror}") from error
    with container:
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise ImageError(f"{str(path)!r} has no video stream")
        yield container, streams[0]


def _decoded(
    container: InputContainer, stream: av.VideoStream
) -> Iterator[tuple[Fraction, list[av.VideoFrame]]]:
    """Of every packet the seconds at its end and the frames that it completes."""
    with suppress(FFmpegError):  # the end of the file may be missing
        for packet in container.demux():
            frames: list[av.VideoFrame] = []
            if packet.stream.index == stream.index:  # the last packet of every stream has stream_index 0
                try:
                    frames = cast("list[av.VideoFrame]", packet.decode())
                except FFmpegError:
                    name = container.name.removeprefix("file:")
                    warnings.warn(f"{name} has damaged packets, which are left out", stacklevel=2)
            for frame in frames:
                frame.pts = frame.dts if frame.pts is None else frame.pts
            yield ((packet.pts or 0) + (packet.duration or 0)) * packet.time_base, frames


def _look(path: Path) -> _Clip:
    """What the header and the first frame say; refuses what cannot be upscaled."""

    def refused(reason: str) -> ImageError:
        return ImageError(f"{str(path)!r} {reason}")

    with _opened(path) as (container, stream):
        if not cast("Any", stream.codec_context):
            raise refused("has a codec that cannot be decoded; convert it first")
        frame = next((frame for _, frames in _decoded(container, stream) for frame in frames), None)
        if frame is None or cast("Any", frame.pts) is None or stream.time_base is None:
            codec = stream.codec_context.name
            raise refused(f"has no frame of codec {codec} that can be decoded and has a time")
        form, tick, matrix = frame.format, stream.time_base, frame.colorspace
        if matrix in _RGB_OR_UNKNOWN:
            matrix = _BT601 if frame.height <= _SD_LINES else _BT709
        if matrix not in _MATRICES:
            raise refused(f"has colour matrix {matrix} of ITU-T H.273, which is not converted")
        if frame.color_trc in _HDR:
            raise refused(
                f"is HDR ({_HDR[frame.color_trc]}); convert it to SDR first, the models know no other"
            )
        if stream.metadata.get("alpha_mode") == "1":
            raise refused("is VP8 or VP9 with transparency, which is not decoded; convert it to FFV1")
        shown = frame.side_data.get("DISPLAYMATRIX")
        numbers = [1, 0, 0, 0, 1] if shown is None else np.frombuffer(shown, np.int32).tolist()
        start = cast("int | None", container.start_time)
        return _Clip(
            path=path,
            frame=frame,
            matrix=matrix,
            color_range=_FULL if form.name.startswith("yuvj") else frame.color_range or _LIMITED,
            alpha=any(one.is_alpha for one in form.components) and not form.has_palette,
            display=(numbers[0], numbers[1], numbers[3], numbers[4]),
            aspect=stream.sample_aspect_ratio or Fraction(1),
            tick=tick,
            origin=cast("int", frame.pts) if start is None else round(Fraction(start, 10**6) / tick),
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            duration=Fraction(container.duration or 0, 10**6),
        )


def _frames(
    clip: _Clip, since: int | None, stop: int | None, problems: list[ImageError], *, seek: bool = True
) -> Iterator[av.VideoFrame]:
    """Frames from ``since`` to before ``stop``, at rising times; what ends them early is appended."""
    begin, last, reached = since or 0, -math.inf, Fraction(0)
    with _opened(clip.path) as (container, stream):
        stream.thread_type = "AUTO"
        sought = seek and begin > 0
        if sought:
            with suppress(FFmpegError):
                container.seek(begin + clip.origin, stream=stream)
        for end, frames in _decoded(container, stream):
            reached = max(reached, end)
            for frame in frames:
                time = cast("int", frame.pts) - clip.origin
                if sought and time > begin:  # the seek went too far
                    yield from _frames(clip, since, stop, problems, seek=False)
                    return
                sought = False
                if stop is not None and time >= stop:
                    return
                if (frame.height, frame.width) != (clip.frame.height, clip.frame.width):
                    size, after = f"{frame.width} x {frame.height}", _milliseconds(time * clip.tick)
                    text = f"changes its size to {size} after {after} s; upscale it in two parts, with"
                    problems.append(
                        ImageError(f"{str(clip.path)!r} {text} end_time {after} and start_time {after}")
                    )
                    return
                if time > last and (since is None or time >= since):
                    frame.pts = last = time
                    yield frame
        read = reached - clip.origin * clip.tick
        wanted = clip.duration if stop is None else min(clip.duration, stop * clip.tick)
        if container.format.name.startswith(_ANNOUNCED) and read + _SLACK < wanted:
            after, whole = _milliseconds(read), _milliseconds(clip.duration)
            text = f"breaks off after {after} of {whole} s; give end_time {after} to keep what there is"
            problems.append(ImageError(f"{str(clip.path)!r} {text}"))


def _milliseconds(seconds: Fraction) -> str:
    return f"{math.floor(seconds * 1000) / 1000:.3f}"


# Enlarging and writing


def _enlarged(
    resolver: SuperResolver,
    clip: _Clip,
    frames: Iterator[av.VideoFrame],
    options: Mapping[str, Any],
    reporter: Progress,
) -> Iterator[tuple[int, Pixels]]:
    """Times and enlarged frames; a frame that equals the one before it is not computed again."""
    upscale = cast("Any", resolver.upscale)
    together = max(1, min(_FRAMES_TOGETHER, _PIXELS_TOGETHER // (clip.frame.height * clip.frame.width)))
    before = large = np.empty(0, np.uint8)
    while group := list(itertools.islice(frames, together)):
        images: list[Pixels] = []
        for frame in group:
            color_range = _FULL if frame.format.is_rgb else clip.color_range
            channels = "rgba" if clip.alpha else "rgb24"
            rgb = clip.convert(frame, channels, source=color_range, target=_FULL)
            images.append(clip.upright(cast("Pixels", rgb.to_ndarray())))
        known = [np.array_equal(one, other) for one, other in itertools.pairwise([before, *images])]
        new = [image for image, old in zip(images, known, strict=True) if not old]
        seeds = [options["seed"]] * len(new)
        results = iter(upscale(new, **{**options, "seed": seeds, "progress": False}) if new else ())
        for frame, old in zip(group, known, strict=True):
            large: Pixels = large if old else next(results)
            yield cast("int", frame.pts), large
            reporter.step(partial(_preview, large))
        before = images[-1]


def _preview(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels[..., :3]).permute(2, 0, 1)[None] / 255


@dataclass(frozen=True, slots=True)
class _Work:
    """The result of a clip, and the folder in which its segments wait."""

    clip: _Clip
    final: Path
    start: int | None
    stop: int | None
    crf: int | None
    """None for lossless video."""
    strip_metadata: bool

    @property
    def folder(self) -> Path:
        return self.final.with_name(f"{self.final.name}.parts")

    @property
    def form(self) -> str:
        return _FORMATS[self.final.suffix.lower()]

    def part(self, number: int) -> Path:
        """File of a segment: MP4 keeps any unit of time, MKV has milliseconds, as a lossless result."""
        return self.folder / f"{number:06}{'.mkv' if self.crf is None else '.mp4'}"

    def check_target(self, *, overwrite: bool) -> None:
        """Before anything is computed, refuse what cannot be written, and say what is going to be lost."""
        name, clip = repr(str(self.final)), self.clip
        check_file(self.final)
        if clip.alpha and self.crf is not None:
            raise OutputError(f"cannot write {name}: H.264 has no transparency; lossless video in .mkv has")
        if self.final.exists() and self.final.samefile(clip.path):
            raise OutputError(f"cannot write {name}: it is the source; choose another name")
        if self.final.exists() and not overwrite:
            raise OutputError(f"{name} already exists; delete it or overwrite it")
        if clip.aspect != 1 and self.crf is None:
            warnings.warn(f"the shape of pixels, {clip.aspect}, is not kept in lossless video", stacklevel=3)
        if clip.frame.interlaced_frame:
            warnings.warn(
                f"{clip.path} is interlaced; deinterlace it first, or combs are enlarged", stacklevel=3
            )
        if (bits := clip.frame.format.components[0].bits) > 8:
            logger.info("%s has %d bits per sample; results have 8", clip.path, bits)
        with _opened(clip.path) as (source, pictures):
            for stream in source.streams:
                if stream.index != pictures.index and not _is_copied(stream):
                    logger.info("%s: stream %d (%s) is left out", clip.path, stream.index, stream.type)
            try:
                with av.open(io.BytesIO(), "w", self.form) as trial:
                    if self.add_copies(trial, source):
                        trial.start_encoding()
            except (ValueError, FFmpegError) as error:
                codecs = ", ".join(one.codec_context.name for one in source.streams if _is_copied(one))
                reason = (
                    f"{self.final.suffix} cannot hold the source's audio and subtitles ({codecs}); .mkv can"
                )
                raise OutputError(f"cannot write {name}: {reason}") from error

    def finished(self, job: Mapping[str, Any], *, overwrite: bool) -> list[_Segment]:
        """Segments that an earlier run of the same job has left."""
        folder, name = self.folder, repr(str(self.folder))
        if not folder.exists():
            return []
        try:
            found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            before, segments = found["job"], [_Segment(*numbers) for numbers in found["segments"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{name} is in the way of the segments; move it or delete it") from error
        changed = [key for key in {**job, **before} if job.get(key) != before.get(key)]
        if changed and not overwrite:
            what = ", ".join(changed)
            raise OutputError(f"{name} has segments made with another {what}; delete it or overwrite it")
        if changed:
            shutil.rmtree(folder)
            return []
        return [segment for segment in segments if self.stop is None or segment.last < self.stop]

    def record(self, job: Mapping[str, Any], done: Sequence[_Segment]) -> None:
        """Note what is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / _RECORD) as temporary:
            temporary.write_text(json.dumps({"job": job, "segments": done}), encoding="utf-8")

    def encode(self, number: int, frames: Iterator[tuple[int, Pixels]]) -> _Segment | None:
        """Write a segment, whose times begin at 0; None if there is no frame."""
        head = next(frames, None)
        if head is None:
            return None
        first, last, count, clip, lossless = head[0], head[0], 0, self.clip, self.crf is None
        height, width = (side if lossless else side // 2 * 2 for side in head[1].shape[:2])
        channels = "rgba" if clip.alpha else "rgb24"
        with atomic_path(self.part(number)) as temporary, av.open(f"file:{temporary}", "w") as output:
            stream = output.add_stream(
                "ffv1" if lossless else "libx264",
                rate=clip.rate,
                options={"level": "3"} if lossless else {"crf": str(self.crf)},
                width=width,
                height=height,
                pix_fmt="yuv420p" if not lossless else "bgra" if clip.alpha else "bgr0",
                time_base=clip.tick,
                sample_aspect_ratio=1 / clip.aspect if clip.turned else clip.aspect,
                colorspace=0 if lossless else clip.matrix,
                color_range=_FULL if lossless else clip.color_range,
                color_primaries=clip.frame.color_primaries,
                color_trc=clip.frame.color_trc,
            )
            for time, pixels in itertools.chain([head], frames):
                even = np.ascontiguousarray(pixels[:height, :width])
                rgb = av.VideoFrame.from_ndarray(even, format=channels)
                frame = clip.convert(rgb, str(stream.pix_fmt), source=_FULL, target=stream.color_range)
                frame.pts, frame.time_base = time - first, clip.tick
                output.mux(stream.encode(frame))
                last, count = time, count + 1
            output.mux(stream.encode(None))
        return _Segment(first, last, count)

    def join(self, done: Sequence[_Segment]) -> tuple[int, int]:
        """Write the result from the segments and what is copied, without encoding; give height and width."""
        begin = 0 if self.start is None else done[0].first
        whole = self.folder / f"whole{self.final.suffix}"
        options = {} if self.form == "matroska" else {"movflags": "+faststart"}
        with (
            _opened(self.clip.path) as (source, _),
            av.open(f"file:{self.part(0)}") as container,
            av.open(f"file:{whole}", "w", self.form, options=options) as output,
        ):
            template = container.streams.video[0]
            pictures = output.add_stream_from_template(template, opaque=True)
            copies = self.add_copies(output, source)
            if not self.strip_metadata:
                output.metadata.update(source.metadata)
            for packet in heapq.merge(
                self.joined(done, begin, pictures),
                self.copied(source, copies, begin),
                key=lambda packet: float(cast("int", packet.dts) * packet.time_base),
            ):
                output.mux_one(packet)
            size = (template.height, template.width)
        os.replace(whole, self.final)
        return size

    def add_copies(self, output: OutputContainer, source: InputContainer) -> dict[int, Stream]:
        """Streams of the result that take packets as they are, by their numbers in the source."""
        copies: dict[int, Stream] = {}
        for stream in filter(_is_copied, source.streams):
            copies[stream.index] = copy = output.add_stream_from_template(stream, opaque=True)
            copy.disposition = stream.disposition
            for name in ("language",) if self.strip_metadata else ("language", "title"):
                if name in stream.metadata:
                    copy.metadata[name] = stream.metadata[name]
        return copies

    def joined(self, done: Sequence[_Segment], begin: int, pictures: Stream) -> Iterator[Packet]:
        """Packets of the segments, one behind the other."""
        last = -math.inf
        for number, segment in enumerate(done):
            shift: int | None = None
            # Without its edit list, whose unit is a millisecond, MP4 has exact times that begin later.
            with av.open(f"file:{self.part(number)}", options={"ignore_editlist": "1"}) as container:
                for packet in cast("Iterator[Packet]", container.demux(video=0)):
                    if packet.pts is None:
                        continue
                    if shift is None:
                        first = (segment.first - begin) * self.clip.tick
                        shift = round(first / packet.time_base) - packet.pts
                    packet.pts += shift
                    # With frames of uneven length, decoding times of two segments may overlap.
                    decoded = packet.pts if packet.dts is None else packet.dts + shift
                    packet.dts = last = max(decoded, cast("int", last + 1))
                    packet.stream = pictures
                    yield packet

    def copied(self, source: InputContainer, copies: Mapping[int, Stream], begin: int) -> Iterator[Packet]:
        """Packets of audio and subtitles that are heard or seen between start and stop."""
        tick, stop = self.clip.tick, math.inf if self.stop is None else (self.stop - begin) * self.clip.tick
        with suppress(FFmpegError):  # as above
            for packet in source.demux([source.streams[index] for index in copies]) if copies else ():
                ticks = packet.dts if packet.pts is None else packet.pts
                if ticks is None:
                    continue
                shift = round((begin + self.clip.origin) * tick / packet.time_base)
                packet.pts, packet.dts = ticks - shift, (ticks if packet.dts is None else packet.dts) - shift
                end = packet.pts + (packet.duration or 0)
                if packet.pts * packet.time_base >= stop or (self.start is not None and end <= 0):
                    continue
                if packet.pts < 0 and packet.stream.type == "subtitle":
                    packet.duration, packet.pts, packet.dts = end, 0, 0
                packet.stream = copies[packet.stream.index]
                yield packet


def _is_copied(stream: Stream) -> bool:
    return stream.type in ("audio", "subtitle") and bool(stream.codec_context)
