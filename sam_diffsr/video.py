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
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr import errors
from sam_diffsr.arguments import is_number
from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.image.formats import check_file
from sam_diffsr.image.jobs import STDOUT, Existing, Job
from sam_diffsr.pipeline.batch import FileUpscaler, Outcome, Status
from sam_diffsr.progress import Progress

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

__all__ = ["VideoResult", "run_videos", "upscale_video"]

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Pixels = NDArray[np.uint8]

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""FFmpeg's formats of results by their endings."""
# Numbers of ITU-T H.273: colour matrices that are converted, colour ranges, transfer functions of HDR.
_MATRICES, _BT709, _BT601, _RGB_OR_UNKNOWN = (1, 4, 5, 6, 7, 9), 1, 5, (0, 2)
_LIMITED, _FULL = 1, 2
_HDR = {16: "PQ", 18: "HLG"}
_SD_LINES = 576
"""Players take a video that names no matrix for BT.601 up to so many lines, for BT.709 above."""
_BICUBIC_EXACT = 4 | 0x2000 | 0x40000
"""The converter's flags for bicubic chroma in full precision; its defaults shift colours by two levels."""
_WITH_DURATION, _SLACK = ("mov", "matroska", "avi"), 1.5
"""Formats whose header gives the duration; a file counts as cut off if more frames than this are missing."""
_SEEKABLE = ("mov", "matroska")
"""Formats in which a time has one place; the others are read from their beginning."""
_PLAYLISTS = {"concat", "dash", "hls", "image2", "imf", "sdp", "vobsub", "webm_dash_manifest"}
"""Formats that are lists of other files."""
_SEAM = 1
"""Seconds; where times fall back by more, another video begins."""
_PIXELS_TOGETHER, _FRAMES_TOGETHER = 2**18, 8
_ANY_VALUE = ("tile", "batch_size", "max_memory")
"""Options that a stopped run may go on with other values of."""
_RECORD = "job.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """A written video: its frames, those that an earlier run had finished, and (height, width)."""

    frames: int
    resumed: int
    size: tuple[int, int]


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

    The result keeps rising times of frames, colour matrix and range, shape of pixels (in H.264), audio,
    subtitles and metadata; frames are turned upright. A few frames are in memory at a time. Finished segments
    wait in the folder ``{target}.parts``: after a stop the same call goes on behind them, and ``target``
    appears when it is whole. H.264 is written in 8 bits, 4:2:0, with even sides (an odd last row or column is
    left out).

    Args:
        resolver: model that enlarges the frames.
        source: a video file that FFmpeg reads.
        target: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``.
        start_time: seconds at which to begin; audio and subtitles are cut too.
        end_time: seconds at which to end.
        crf: quality of H.264 from 0, the best, to 51.
        lossless: write FFV1 in ``.mkv``, which holds the 8-bit RGB results exactly, and transparency.
        seed: seed of the noise of every frame, so that what stands still does not flicker.
        overwrite: replace an existing target, and segments of a stopped run.
        strip_metadata: leave out title, place, date and other metadata of the file.
        segment_frames: frames of a segment, which is the most that a stop loses.
        **options: further arguments of :meth:`SuperResolver.upscale`; ``progress`` and ``callback`` count
            frames.

    Raises:
        ImageError: not a video, no frame can be decoded, HDR, transparency for H.264, or a colour matrix that
            cannot be converted. Or the size changes or the file breaks off; the frames before are finished.
        OutputError: the target exists, cannot hold a stream of the source, or cannot be written.
        ArgumentError: an argument is out of range.
        MissingDependencyError: PyAV is not installed. Others are those of :meth:`SuperResolver.upscale`.
    """
    _check_arguments(start_time, end_time, crf, segment_frames)
    job = Job(source=Path(source), target=Path(target))
    existing: Existing = "overwrite" if overwrite else "error"
    job.is_done(existing)
    clip = _Clip(job.source, start_time, end_time)
    work = _Work(clip, job, crf=None if lossless else crf, strip_metadata=strip_metadata)
    result = work.run(
        resolver, existing=existing, segment_frames=segment_frames, options={**options, "seed": seed}
    )
    return cast("VideoResult", result)  # it is None only where existing results are skipped


def run_videos(
    jobs: Sequence[Job],
    upscaler: FileUpscaler,
    *,
    start_time: float | None = None,
    end_time: float | None = None,
    crf: int = 18,
    lossless: bool = False,
    existing: Existing = "error",
    strip_metadata: bool = False,
    keep_time: bool = False,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Do jobs of videos in order, as :func:`upscale_video` and :meth:`FileUpscaler.run` do.

    Yields:
        One outcome per job, as soon as it is known; a video that fails stops no other.

    Raises:
        ArgumentError: an argument is out of range.
        CancelledError: a callback asked to stop.
    """
    _check_arguments(start_time, end_time, crf)

    def do(job: Job) -> tuple[Status, tuple[int, int] | None]:
        if job.is_done(existing):
            return "skipped", None
        clip = _Clip(job.source, start_time, end_time)
        work = _Work(clip, job, crf=None if lossless else crf, strip_metadata=strip_metadata)
        if dry_run:
            return "planned", upscaler.result_size(*clip.size)
        options = {**upscaler.options, "seed": upscaler.seed, "max_pixels": upscaler.max_pixels}
        options |= {"outscale": upscaler.factor(*clip.size), "progress": False}
        with upscaler.watch(1) as further:
            options |= further
            result = work.run(upscaler.resolver, existing=existing, options=options)
        if result is None:
            return "skipped", None
        if keep_time:
            job.copy_time()
        return "written", result.size

    for job in jobs:
        started, status, size, error = perf_counter(), "failed", None, job.problem
        if error is None:
            try:
                status, size = do(job)
            except (ArgumentError, errors.CancelledError):
                raise
            except Exception as problem:  # the other videos go on
                error = problem
        yield Outcome(job=job, status=status, seconds=perf_counter() - started, size=size, error=error)


def _check_arguments(start: float | None, end: float | None, crf: int, segment_frames: int = 1) -> None:
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
        raise errors.MissingDependencyError("video needs PyAV: pip install 'sam-diffsr[video]'")
    if not path.exists():
        raise errors.ImageNotFoundError(f"there is no file {str(path)!r}")
    formats = ",".join(av.formats_available - _PLAYLISTS)
    options = {"protocol_whitelist": "file", "format_whitelist": formats}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise ImageError(f"{str(path)!r} is cut off, damaged or no video: {error.strerror}") from error
    with container:
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise ImageError(f"{str(path)!r} has no video stream")
        yield container, streams[0]


def _demuxed(container: InputContainer) -> Iterator[Packet]:
    """Packets; where times fall back, at a seam of joined files, they go on at the end of those before."""
    shifts, last, seams, end = [Fraction(0)], dict[int, Fraction](), Counter[int](), Fraction(0)
    for packet in cast("Iterator[Packet]", container.demux()):
        unit, place = packet.time_base, packet.stream.index
        decoded = packet.pts if packet.dts is None else packet.dts
        shown = decoded if packet.pts is None else packet.pts
        shift = shifts[-1]
        if decoded is not None and shown is not None and packet.stream.type in ("video", "audio"):
            if decoded * unit < last.get(place, -math.inf) - _SEAM:
                seams[place] += 1  # each stream reaches a seam for itself
                if seams[place] == len(shifts):
                    shifts.append(end - shown * unit)
            last[place], shift = decoded * unit, shifts[seams[place]]
            end = max(end, (shown + (packet.duration or 0)) * unit + shift)
        more = round(shift / unit)
        packet.pts = None if packet.pts is None else packet.pts + more
        packet.dts = None if packet.dts is None else packet.dts + more
        yield packet


def _decoded(
    container: InputContainer, stream: av.VideoStream
) -> Iterator[tuple[Fraction, list[av.VideoFrame]]]:
    """Frames, and seconds at the ends of packets: of all streams if the video has no duration of its own."""
    with suppress(FFmpegError):  # the end of the file may be missing
        for packet in _demuxed(container):
            frames, shown = list[av.VideoFrame](), packet.stream.index == stream.index
            if shown:  # the last packet of every stream has stream_index 0
                try:
                    frames = cast("list[av.VideoFrame]", packet.decode())
                except FFmpegError:
                    name = container.name.removeprefix("file:")
                    warnings.warn(f"{name} has damaged packets, which are left out", stacklevel=2)
            for frame in frames:
                frame.pts = frame.dts if frame.pts is None else frame.pts
            end = (packet.pts or 0) + (packet.duration or 0)
            yield end * packet.time_base if shown or stream.duration is None else Fraction(0), frames


class _Clip:
    """A video that can be upscaled. Times are counted in ticks from where players begin."""

    def __init__(self, path: Path, start_time: float | None = None, end_time: float | None = None) -> None:
        """Read the header and the first frame, whose size and colours the others have too."""
        self.path, self.start_time = path, start_time
        self.problem: ImageError | None = None  # what ends the frames too early
        with _opened(path) as (container, stream):
            if not cast("Any", stream.codec_context):
                raise self.refused("has a codec that cannot be decoded; convert it first")
            frame = next((frame for _, frames in _decoded(container, stream) for frame in frames), None)
            if frame is None or cast("Any", frame.pts) is None or stream.time_base is None:
                codec = stream.codec_context.name
                raise self.refused(f"has no frame of codec {codec} that can be decoded and has a time")
            if hdr := _HDR.get(frame.color_trc):
                raise self.refused(f"is HDR ({hdr}); convert it to SDR first, the models know no other")
            if stream.metadata.get("alpha_mode") == "1":
                raise self.refused(
                    "is VP8 or VP9 with transparency, which is not decoded; convert it to FFV1"
                )
            self.matrix = frame.colorspace
            if self.matrix in _RGB_OR_UNKNOWN:
                self.matrix = _BT601 if frame.height <= _SD_LINES else _BT709
            if self.matrix not in _MATRICES:
                raise self.refused(f"has colour matrix {self.matrix} of ITU-T H.273, which is not converted")
            self.frame, form = frame, frame.format
            self.color_range = _FULL if form.name.startswith("yuvj") else frame.color_range or _LIMITED
            self.alpha = any(one.is_alpha for one in form.components) and not form.has_palette
            # Column x and row y of a frame are shown in column a x + c y and row b x + d y.
            shown = frame.side_data.get("DISPLAYMATRIX")
            a, b, _, c, d = [1, 0, 0, 0, 1] if shown is None else np.frombuffer(shown, np.int32)[:5].tolist()
            self.turned = abs(b) > abs(a)
            self.mirrored = (c < 0, b < 0) if self.turned else (a < 0, d < 0)
            self.size = (frame.width, frame.height) if self.turned else (frame.height, frame.width)
            self.aspect = stream.sample_aspect_ratio or Fraction(1)  # width of a stored pixel by its height
            self.tick = stream.time_base
            begin, first = cast("int | None", container.start_time), cast("int", frame.pts)
            self.origin = first if begin is None else round(Fraction(begin, 10**6) / self.tick)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.duration = Fraction(container.duration or 0, 10**6)  # in seconds; 0 if unknown
            if stream.duration is not None:
                self.duration = ((stream.start_time or 0) + stream.duration - self.origin) * self.tick
            self.start = -math.inf if start_time is None else self.ticks(start_time)
            self.stop = math.inf if end_time is None else self.ticks(end_time)

    def ticks(self, seconds: float) -> int:
        return math.ceil(Fraction(str(seconds)) / self.tick)

    def refused(self, reason: str) -> ImageError:
        return ImageError(f"{str(self.path)!r} {reason}")

    def convert(self, frame: av.VideoFrame, pixel_format: str, *, source: int, target: int) -> av.VideoFrame:
        """Change the pixel format, from one colour range to another."""
        frame.colorspace = self.matrix
        return frame.reformat(
            format=pixel_format, src_color_range=source, dst_color_range=target, interpolation=_BICUBIC_EXACT
        )

    def pixels(self, frame: av.VideoFrame) -> Pixels:
        """An upright frame in RGB, or RGBA, as ``(H, W, C)``."""
        color_range = _FULL if frame.format.is_rgb else self.color_range
        rgb = self.convert(frame, "rgba" if self.alpha else "rgb24", source=color_range, target=_FULL)
        stored = cast("Pixels", rgb.to_ndarray())
        across, down = (slice(None, None, -1 if mirrored else 1) for mirrored in self.mirrored)
        return np.ascontiguousarray((stored.swapaxes(0, 1) if self.turned else stored)[down, across])

    def frames(self, since: float, *, seek: bool = True) -> Iterator[av.VideoFrame]:
        """Frames from ``since`` to the stop, or until there is a ``problem``.

        One whose time does not rise is shown half a frame behind the one before it.
        """
        last, reached, half = -math.inf, Fraction(0), max(1, round(1 / (2 * self.rate * self.tick)))
        with _opened(self.path) as (container, stream):
            if sought := seek and since > 0 and container.format.name.startswith(_SEEKABLE):
                with suppress(FFmpegError):
                    container.seek(int(since) + self.origin, stream=stream)
            for end, frames in _decoded(container, stream):
                reached = max(reached, end)
                for frame in frames:
                    time = cast("int", frame.pts) - self.origin
                    time = last = time if time > last else cast("int", last) + half
                    if sought and time > since:  # the seek went too far
                        yield from self.frames(since, seek=False)
                        return
                    sought = False
                    if time >= self.stop:
                        return
                    if (frame.height, frame.width) != (self.frame.height, self.frame.width):
                        size, at = f"{frame.width} x {frame.height}", _milliseconds(time * self.tick)
                        parts = f"upscale it in two parts, with end_time {at} and start_time {at}"
                        self.problem = self.refused(f"changes its size to {size} after {at} s; {parts}")
                        return
                    if time >= since:
                        frame.pts = time
                        yield frame
            read, wanted = reached - self.origin * self.tick, min(self.duration, self.stop * self.tick)
            if container.format.name.startswith(_WITH_DURATION) and read + _SLACK / self.rate < wanted:
                at, whole = _milliseconds(read), _milliseconds(self.duration)
                advice = f"give end_time {at} to keep what there is"
                self.problem = self.refused(f"breaks off after {at} of {whole} s; {advice}")


def _milliseconds(seconds: Fraction) -> str:
    return f"{math.floor(seconds * 1000) / 1000:.3f}"


# Enlarging and writing


def _enlarged(
    upscale: Any, clip: _Clip, frames: Iterator[av.VideoFrame], options: Mapping[str, Any], reporter: Progress
) -> Iterator[tuple[int, Pixels]]:
    """Times and enlarged frames; a frame that equals the one before it is not computed again."""
    together = max(1, min(_FRAMES_TOGETHER, _PIXELS_TOGETHER // math.prod(clip.size)))
    before = large = np.empty(0, np.uint8)
    while group := list(itertools.islice(frames, together)):
        images = [clip.pixels(frame) for frame in group]
        known = [np.array_equal(one, other) for one, other in itertools.pairwise([before, *images])]
        new = [image for image, old in zip(images, known, strict=True) if not old]
        seeds = [options["seed"]] * len(new)
        results = iter(upscale(new, **{**options, "seed": seeds, "progress": False}) if new else ())
        for frame, old in zip(group, known, strict=True):
            large: Pixels = large if old else next(results)
            yield cast("int", frame.pts), large
            reporter.step(lambda large=large: torch.from_numpy(large[..., :3]).permute(2, 0, 1)[None] / 255)
        before = images[-1]


class _Segment(NamedTuple):
    """Finished frames in a file of their own: times of the first and the last one, and how many."""

    first: int
    last: int
    frames: int


class _Work:
    """The result of a clip, and the folder in which its finished segments wait."""

    def __init__(self, clip: _Clip, job: Job, *, crf: int | None, strip_metadata: bool) -> None:
        """Refuse what cannot be written, and say what is lost; ``crf`` is None for lossless video."""
        self.job, target = job, job.target
        if target.stem == STDOUT.name:
            raise OutputError("a video cannot go to standard output; name a file")
        self.clip, self.crf, self.strip_metadata = clip, crf, strip_metadata
        self.final = final = Path(os.path.realpath(target))
        refused, ending = f"cannot write {str(final)!r}: ", final.suffix.lower()
        if crf is None and ending != ".mkv":
            raise OutputError(f"{refused}lossless video is written as .mkv")
        if ending not in _FORMATS:
            raise OutputError(f"{refused}video is written as {', '.join(_FORMATS)}")
        check_file(final)
        self.form, self.folder = _FORMATS[ending], final.with_name(f"{final.name}.parts")
        self.done: list[_Segment] = []
        if clip.alpha and crf is not None:
            raise OutputError(f"{refused}H.264 has no transparency; lossless video in .mkv has")
        if clip.aspect != 1 and crf is None:
            warnings.warn(f"the shape of pixels, {clip.aspect}, is not kept in lossless video", stacklevel=3)
        if clip.frame.interlaced_frame:
            advice = "deinterlace it first, or combs are enlarged"
            warnings.warn(f"{clip.path} is interlaced; {advice}", stacklevel=3)
        if (bits := clip.frame.format.components[0].bits) > 8:
            logger.info("%s has %d bits per sample; results have 8", clip.path, bits)
        with _opened(clip.path) as (source, pictures):
            copied = _copied_streams(source)
            for stream in source.streams:
                if stream not in (pictures, *copied):
                    logger.info("%s: stream %d (%s) is left out", clip.path, stream.index, stream.type)
            try:
                with av.open(io.BytesIO(), "w", self.form) as trial:
                    if self.add_copies(trial, source):
                        trial.start_encoding()
            except (ValueError, FFmpegError) as error:
                codecs = ", ".join(stream.codec_context.name for stream in copied)
                streams = f"the source's audio and subtitles ({codecs}); .mkv can"
                raise OutputError(f"{refused}{final.suffix} cannot hold {streams}") from error

    def run(
        self,
        resolver: SuperResolver,
        *,
        existing: Existing,
        options: dict[str, Any],
        segment_frames: int = 50,
    ) -> VideoResult | None:
        """Do what is left; None if a result that is kept has appeared meanwhile.

        ``options`` are those of :meth:`SuperResolver.upscale`.
        """
        clip = self.clip
        progress, callback = options.pop("progress", None), options.pop("callback", None)
        self.take_up(resolver, options, overwrite=existing == "overwrite")
        if resumed := sum(segment.frames for segment in self.done):
            logger.info("%d frames are finished in %s; going on behind them", resumed, self.folder)
        frames = clip.frames(self.done[-1].last + 1 if self.done else clip.start)
        seconds = min(clip.duration, clip.stop * clip.tick) - max(clip.start, 0) * clip.tick
        total = max(1, round(seconds * clip.rate))
        try:
            with Progress(show=progress, callback=callback, total=total) as reporter:
                reporter.rewind(resumed)
                large = _enlarged(resolver.upscale, clip, frames, options, reporter)
                self.record()
                while self.encode(itertools.islice(large, segment_frames)):
                    self.record()
            if clip.problem is not None:
                raise clip.problem
            if not self.done:
                raise ImageError(f"{str(clip.path)!r} has no frame between start_time and end_time")
            size = self.join(existing)
        except (FFmpegError, OSError) as error:
            if isinstance(error, errors.SamDiffsrError):
                raise
            raise OutputError(f"cannot write {str(self.final)!r}: {error.strerror or error}") from error
        finally:
            if not self.done:
                shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.folder)
        frames = sum(segment.frames for segment in self.done)
        return size and VideoResult(frames=frames, resumed=resumed, size=size)

    def part(self, number: int) -> Path:
        """File of a segment: MP4 keeps any unit of time, MKV has milliseconds, as a lossless result."""
        return self.folder / f"{number:06}{'.mkv' if self.crf is None else '.mp4'}"

    def take_up(self, resolver: SuperResolver, options: Mapping[str, Any], *, overwrite: bool) -> None:
        """Find the segments that an earlier run with the same settings has left."""
        state = self.clip.path.stat()
        settings = {name: value for name, value in options.items() if name not in _ANY_VALUE}
        settings |= {"source": [state.st_size, state.st_mtime_ns], "model": resolver.fingerprint}
        settings |= {"start_time": self.clip.start_time, "crf": self.crf}
        self.settings = json.loads(json.dumps(settings, default=str))
        if not self.folder.exists():
            return
        name = repr(str(self.folder))
        try:
            found = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
            before, segments = found["job"], [_Segment(*numbers) for numbers in found["segments"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{name} is in the way of the segments; move it or delete it") from error
        if overwrite:
            shutil.rmtree(self.folder)
            return
        changed = [key for key in {**self.settings, **before} if self.settings.get(key) != before.get(key)]
        if changed:
            what = ", ".join(changed)
            raise OutputError(f"{name} has segments made with another {what}; delete it or overwrite it")
        for number, segment in enumerate(segments):
            if segment.last >= self.clip.stop or not self.is_whole(number, segment):
                break
            self.done.append(segment)

    def is_whole(self, number: int, segment: _Segment) -> bool:
        """Whether the file of a segment has all its frames."""
        with suppress(FFmpegError), av.open(f"file:{self.part(number)}") as container:
            return sum(packet.size > 0 for packet in container.demux(video=0)) == segment.frames
        return False

    def record(self) -> None:
        """Note what is finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / _RECORD) as temporary:
            text = json.dumps({"job": self.settings, "segments": self.done})
            temporary.write_text(text, encoding="utf-8")

    def encode(self, frames: Iterator[tuple[int, Pixels]]) -> bool:
        """Write a segment, whose times begin at 0; False if there is no frame."""
        if (head := next(frames, None)) is None:
            return False
        clip, lossless, times = self.clip, self.crf is None, list[int]()
        height, width = (side if lossless else side // 2 * 2 for side in head[1].shape[:2])
        with atomic_path(self.part(len(self.done))) as temporary, av.open(f"file:{temporary}", "w") as output:
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
                rgb = av.VideoFrame.from_ndarray(even, format="rgba" if clip.alpha else "rgb24")
                frame = clip.convert(rgb, str(stream.pix_fmt), source=_FULL, target=stream.color_range)
                frame.pts, frame.time_base = time - head[0], clip.tick
                output.mux(stream.encode(frame))
                times.append(time)
            output.mux(stream.encode(None))
        self.done.append(_Segment(times[0], times[-1], len(times)))
        return True

    def join(self, existing: Existing) -> tuple[int, int] | None:
        """Write the result from the segments and what is copied, without encoding; give height and width."""
        begin = self.done[0].first if self.clip.start_time is not None else 0
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
                self.joined(begin, pictures),
                self.copied(source, copies, begin),
                key=lambda packet: float(cast("int", packet.dts) * packet.time_base),
            ):
                output.mux_one(packet)
            size = (template.height, template.width)
        if self.job.is_done(existing):  # another program can have been faster
            return None
        with atomic_path(self.final) as temporary:
            os.replace(whole, temporary)
        return size

    def add_copies(self, output: OutputContainer, source: InputContainer) -> dict[int, Stream]:
        """Streams of the result that take packets as they are, by their numbers in the source."""
        copies: dict[int, Stream] = {}
        for stream in _copied_streams(source):
            copies[stream.index] = copy = output.add_stream_from_template(stream, opaque=True)
            copy.disposition = stream.disposition
            kept = ("language",) if self.strip_metadata else ("language", "title")
            copy.metadata.update({name: stream.metadata[name] for name in kept if name in stream.metadata})
        return copies

    def joined(self, begin: int, pictures: Stream) -> Iterator[Packet]:
        """Packets of the segments, one behind the other."""
        last = -math.inf
        for number, segment in enumerate(self.done):
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
        clip, tick = self.clip, self.clip.tick
        stop, least = (clip.stop - begin) * tick, dict[int, int]()
        with suppress(FFmpegError):  # the end of the file may be missing
            for packet in _demuxed(source) if copies else ():
                ticks = packet.dts if packet.pts is None else packet.pts
                if ticks is None or packet.stream.index not in copies:
                    continue
                shift = round((begin + clip.origin) * tick / packet.time_base)
                packet.pts, packet.dts = ticks - shift, (ticks if packet.dts is None else packet.dts) - shift
                end = packet.pts + (packet.duration or 0)
                if packet.pts * packet.time_base >= stop or (end <= 0 and clip.start_time is not None):
                    continue
                if packet.dts < least.get(packet.stream.index, packet.dts):  # they overlap at a seam
                    continue
                heard = (packet.duration or 0) // 2 if packet.stream.type == "audio" else 0
                least[packet.stream.index] = packet.dts + heard
                if packet.pts < 0 and packet.stream.type == "subtitle":
                    packet.duration, packet.pts, packet.dts = end, 0, 0
                packet.stream = copies[packet.stream.index]
                yield packet


def _copied_streams(source: InputContainer) -> list[Stream]:
    """Audio and subtitles that FFmpeg knows."""
    kinds = ("audio", "subtitle")
    return [stream for stream in source.streams if stream.type in kinds and bool(stream.codec_context)]
