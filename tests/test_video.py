"""Videos: what is kept, what is refused, what a stopped run leaves; clips are written by PyAV itself."""

from __future__ import annotations

import io
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_diffsr import video
from sam_diffsr.cli import main
from sam_diffsr.errors import (
    ArgumentError,
    CancelledError,
    ImageError,
    ImageNotFoundError,
    MissingDependencyError,
    OutputError,
)
from sam_diffsr.image.jobs import Job
from sam_diffsr.pipeline import FileUpscaler, SuperResolver
from sam_diffsr.video import upscale_video

av: Any = pytest.importorskip("av")
TICK = Fraction(1, 12800)
EVEN = [number * 512 for number in range(10)]


class Twice:
    """Stands for a resolver: repeats every pixel, and counts the frames that it is given."""

    fingerprint = "twice"

    def __init__(self) -> None:
        self.seen = 0

    def upscale(self, images: list[np.ndarray], *, seed: list[int], progress: bool, **options: Any) -> Any:
        assert len(images) == len(seed)
        self.seen += len(images)
        factor = options.get("outscale", 2)
        sizes = [(round(image.shape[1] * factor), round(image.shape[0] * factor)) for image in images]
        return [
            np.asarray(Image.fromarray(image).resize(size, 0))
            for image, size in zip(images, sizes, strict=True)
        ]


@pytest.fixture
def twice() -> Any:
    return Twice()


def picture(number: int) -> np.ndarray:
    """A frame of 16 x 24: a still gradient above, a bar that goes to the right below."""
    rows, columns = np.mgrid[:16, :24]
    frame = np.stack([rows * 9, columns * 7, 200 - columns * 3], axis=-1).astype(np.uint8)
    frame[8:, number * 2 % 24 : number * 2 % 24 + 3] = (250, 240, 20)
    return frame


def encoded(
    stream: Any, times: list[int], frames: Callable[[int], np.ndarray], matrix: int, full: int
) -> Any:
    for number, time in enumerate(times):
        rgb = frames(number)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgba" if rgb.shape[2] == 4 else "rgb24")
        frame.colorspace = matrix
        frame = frame.reformat(format=stream.pix_fmt, src_color_range=2, dst_color_range=full)
        frame.pts, frame.time_base = time, stream.codec_context.time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def clicks_encoded(stream: Any, seconds: float) -> Any:
    """Silence with a click in the middle of every half second."""
    wave = np.zeros(int(seconds * 48000) // 1024 * 1024, np.float32)
    wave[12000::24000] = 0.9
    for first in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, first
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write(
    path: Path,
    times: list[int] = EVEN,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    tick: Fraction = TICK,
    frames: Callable[[int], np.ndarray] = picture,
    sound: str | None = None,
    text: str | None = None,
    matrix: int = 5,
    tags: dict[str, Any] | None = None,
    prepare: Callable[[Any], object] = lambda stream: None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip."""
    height, width = frames(0).shape[:2]
    with av.open(str(path), "w", options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = tick
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        output.metadata["title"] = "a title"
        packets = list(encoded(stream, times, frames, matrix, (tags or {}).get("color_range", 1)))
        if sound is not None:
            audio = output.add_stream(sound, rate=48000, layout="mono")
            audio.metadata["language"] = "fin"
            packets += clicks_encoded(audio, float((times[-1] + 512) * tick))
        if text is not None:
            words = output.add_mux_stream(text)
            packet = av.Packet(b"hello")
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = 80, 80, 200
            packets.append(packet)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            output.mux(packet)
    return path


def read(path: Path, format: str = "rgb24") -> tuple[list[Fraction], list[np.ndarray]]:
    """Times in seconds, and frames with the colours that their tags say."""
    times: list[Fraction] = []
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame.colorspace = 5 if frame.colorspace in (0, 2) else frame.colorspace
            rgb = frame.reformat(
                format=format,
                src_color_range=frame.color_range or 1,
                dst_color_range=2,
                interpolation=video._BICUBIC_EXACT,
            )
            frames.append(rgb.to_ndarray())
            times.append(frame.pts * frame.time_base)
    return times, frames


def packets_of(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def clicks(path: Path) -> list[float]:
    """Times of the clicks, from the first frame on."""
    found: list[float] = []
    start = read(path)[0][0]
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray()[0])
            if wave.max() > 0.3:
                found.append(float(frame.pts * frame.time_base - start) + int(wave.argmax()) / 48000)
    return found


# What is kept


@pytest.mark.parametrize(
    ("times", "tick"),
    [
        (EVEN, TICK),
        ([0, 512, 1100, 1200, 5000, 5512, 6000, 13000], TICK),
        (list(range(10)), Fraction(1001, 30000)),
        ([0, 33, 67, 100, 133, 500, 533], Fraction(1, 1000)),
    ],
)
def test_frames_and_their_times(twice, tmp_path, times, tick):
    source = write(tmp_path / "a.mp4", times, tick=tick)
    result = upscale_video(twice, source, tmp_path / "b.mp4", segment_frames=3)
    assert (result.frames, result.resumed, result.size) == (len(times), 0, (32, 48))
    assert read(tmp_path / "b.mp4")[0] == [time * tick for time in times]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("source", "target", "sound"),
    [
        ("a.mp4", "b.mp4", "aac"),
        ("a.mkv", "b.mkv", "libopus"),
        ("a.ts", "b.mp4", "aac"),
        ("a.mp4", "b.mkv", "aac"),
    ],
)
def test_audio_is_copied_and_in_time(twice, tmp_path, source, target, sound):
    path = write(tmp_path / source, [number * 512 for number in range(40)], sound=sound)
    upscale_video(twice, path, tmp_path / target, segment_frames=15)
    if source != "a.ts":  # whose audio has headers that MP4 does not have
        assert packets_of(path, "audio") == packets_of(tmp_path / target, "audio")
    before, after = clicks(path), clicks(tmp_path / target)
    assert len(before) == 3
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_start_and_end(twice, tmp_path):
    source = write(tmp_path / "a.mp4", [number * 512 for number in range(40)], sound="aac")
    upscale_video(twice, source, tmp_path / "b.mp4", start_time=0.41, end_time=1.2, segment_frames=7)
    times, frames = read(tmp_path / "b.mp4")
    assert times == [Fraction(number, 25) for number in range(19)]  # from 0.44 to 1.16
    assert upscale_video(twice, source, tmp_path / "c.mp4", start_time=0.04, end_time=0.2).frames == 4
    whole = read(source)[1]
    assert np.abs(frames[0][::2, ::2].astype(int) - whole[11]).mean() < 6
    np.testing.assert_allclose(clicks(tmp_path / "b.mp4"), [0.75 - 0.44], atol=1e-3)


def test_joined_files_go_on_behind_the_seam(twice, tmp_path):
    part = write(tmp_path / "a.ts", [number * 512 for number in range(40)], sound="aac")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    with pytest.raises(CancelledError):
        upscale_video(twice, joined, tmp_path / "b.mkv", segment_frames=30, callback=stop_after(65))
    assert upscale_video(twice, joined, tmp_path / "b.mkv").resumed == 60
    times, frames = read(tmp_path / "b.mkv")
    assert len(times) == 80
    assert max(after - before for before, after in itertools.pairwise(times)) <= Fraction(6, 100)
    assert np.abs(frames[50].astype(int) - frames[10]).mean() < 3
    heard = np.array(clicks(tmp_path / "b.mkv"))
    np.testing.assert_allclose(heard[:3], clicks(part), atol=2e-3)
    np.testing.assert_allclose(heard[3:] - float(times[40] - times[0]), clicks(part), atol=3e-2)
    assert upscale_video(twice, joined, tmp_path / "c.mp4", start_time=1).frames == 55


def test_no_frame_is_lost_where_times_do_not_rise(twice, tmp_path):
    def reordered(stream: Any) -> None:
        stream.codec_context.max_b_frames = 2

    source = write(tmp_path / "a.avi", list(range(10)), tick=Fraction(1, 25), prepare=reordered)
    stored = [packet.pts for packet in av.open(str(source)).demux(video=0) if packet.size]
    assert stored == sorted(stored)  # as AVI has no times of frames, only an order of packets
    assert upscale_video(twice, source, tmp_path / "b.mp4").frames == 10
    times = read(tmp_path / "b.mp4")[0]
    assert (len(times), times) == (10, sorted(set(times)))


def test_subtitles_and_metadata(twice, tmp_path):
    source = write(tmp_path / "a.mkv", sound="aac", text="subrip")
    for strip in (False, True):
        target = tmp_path / f"{strip}.mkv"
        upscale_video(twice, source, target, strip_metadata=strip)
        assert packets_of(target, "subtitles") == [b"hello"]
        with av.open(str(target)) as container:
            assert container.streams.audio[0].language == "fin"
            assert container.metadata.get("title") == (None if strip else "a title")


@pytest.mark.parametrize(
    ("matrix", "tags", "kept"),
    [
        (1, {"colorspace": 1, "color_range": 1, "color_primaries": 1, "color_trc": 1}, (1, 1, 1, 1)),
        (1, {"colorspace": 1, "color_range": 2}, (1, 2, 2, 2)),
        (5, {"colorspace": 6, "color_range": 1, "color_primaries": 6, "color_trc": 6}, (6, 1, 6, 6)),
        (5, {"colorspace": 5, "color_range": 2}, (5, 2, 2, 2)),
        (9, {"colorspace": 9, "color_range": 1, "color_primaries": 9}, (9, 1, 9, 2)),
        (5, {}, (5, 1, 2, 2)),  # which players take for BT.601, and would not in twice the size
    ],
)
def test_colours(twice, tmp_path, matrix, tags, kept):
    def flat(number: int) -> np.ndarray:
        return np.full((16, 24, 3), (200, 60, 120), np.uint8)

    source = write(tmp_path / "a.mp4", frames=flat, matrix=matrix, tags=tags, options={"crf": "1"})
    upscale_video(twice, source, tmp_path / "b.mp4", crf=1)
    assert np.abs(read(tmp_path / "b.mp4")[1][0].astype(int) - (200, 60, 120)).max() <= 4
    with av.open(str(tmp_path / "b.mp4")) as container:
        context = container.streams.video[0].codec_context
        names = ("colorspace", "color_range", "color_primaries", "color_trc")
        assert tuple(int(getattr(context, name)) for name in names) == kept


@pytest.mark.parametrize(("degrees", "mirrored"), [(90, False), (-90, False), (180, False), (0, True)])
def test_turned_frames_are_turned_upright(twice, tmp_path, degrees, mirrored):
    def prepare(stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=mirrored)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    source = write(tmp_path / "a.mov", codec="png", pix_fmt="rgb24", prepare=prepare)
    with av.open(str(source)) as container:
        turns = next(container.decode(video=0)).rotation // 90
    with pytest.warns(UserWarning, match="the shape of pixels, 4/3, is not kept in lossless video"):
        upscale_video(twice, source, tmp_path / "b.mkv", lossless=True, segment_frames=1)
    expected = picture(3)[:, ::-1] if mirrored else np.rot90(picture(3), turns)
    np.testing.assert_array_equal(read(tmp_path / "b.mkv")[1][3][::2, ::2], expected)
    assert upscale_video(twice, source, tmp_path / "b.mp4").size == (
        2 * expected.shape[0],
        2 * expected.shape[1],
    )
    with av.open(str(tmp_path / "b.mp4")) as container:
        aspect = container.streams.video[0].sample_aspect_ratio
    assert aspect == (Fraction(3, 4) if abs(degrees) == 90 else Fraction(4, 3))


def test_lossless_frames_are_the_resolvers(tmp_path, save_tiny_model):
    resolver = SuperResolver.from_pretrained(save_tiny_model(1), device="cpu")
    source = write(tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0")
    upscale_video(resolver, source, tmp_path / "b.mkv", lossless=True, seed=3)
    frames = read(tmp_path / "b.mkv")[1]
    assert frames[0].shape == (64, 96, 3)
    for number in (0, 7):
        assert np.abs(frames[number].astype(int) - resolver.upscale(picture(number), seed=3)).max() <= 1


def test_a_still_scene_gives_still_frames(tmp_path, save_tiny_model):
    resolver = SuperResolver.from_pretrained(save_tiny_model(1), device="cpu")
    source = write(
        tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0", frames=lambda number: picture(number % 2)
    )
    upscale_video(resolver, source, tmp_path / "b.mkv", lossless=True)
    frames = read(tmp_path / "b.mkv")[1]
    assert (frames[0] != frames[1]).any()
    for number in range(2, 10):
        np.testing.assert_array_equal(frames[number], frames[number % 2])


def test_a_repeated_frame_is_computed_once(twice, tmp_path):
    source = write(
        tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0", frames=lambda number: picture(number // 4)
    )
    upscale_video(twice, source, tmp_path / "b.mkv", lossless=True, segment_frames=3)
    assert twice.seen == 3
    np.testing.assert_array_equal(read(tmp_path / "b.mkv")[1][5][::2, ::2], picture(1))


def test_transparency_in_lossless_video(twice, tmp_path):
    def glass(number: int) -> np.ndarray:
        return np.dstack([picture(number), np.full((16, 24), 20 * number + 5, np.uint8)])

    source = write(tmp_path / "a.mov", codec="qtrle", pix_fmt="argb", frames=glass)
    upscale_video(twice, source, tmp_path / "b.mkv", lossless=True)
    np.testing.assert_array_equal(read(tmp_path / "b.mkv", "rgba")[1][4][::2, ::2], glass(4))
    with pytest.raises(OutputError, match=r"H\.264 has no transparency; lossless video in \.mkv has"):
        upscale_video(twice, source, tmp_path / "b.mp4")


def test_10_bits_become_8(twice, tmp_path, caplog):
    source = write(tmp_path / "a.mkv", codec="ffv1", pix_fmt="yuv420p10le")
    with caplog.at_level(logging.INFO):
        assert upscale_video(twice, source, tmp_path / "b.mp4").frames == 10
    assert "has 10 bits per sample; results have 8" in caplog.text


def test_sides_of_h264_are_even(twice, tmp_path):
    source = write(tmp_path / "a.mp4")
    assert upscale_video(twice, source, tmp_path / "b.mp4", outscale=1.3).size == (20, 30)
    assert upscale_video(twice, source, tmp_path / "b.mkv", outscale=1.3, lossless=True).size == (21, 31)


def test_an_interlaced_clip_is_warned_of(twice, tmp_path):
    source = write(tmp_path / "a.mkv", options={"x264-params": "tff=1"})
    with pytest.warns(UserWarning, match="is interlaced; deinterlace it first"):
        upscale_video(twice, source, tmp_path / "b.mp4")


def test_other_streams_are_named(twice, tmp_path, caplog):
    picture_file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture_file, "PNG")
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
        stream.codec_context.time_base = Fraction(1, 25)
        output.add_attachment("font.ttf", "font/ttf", b"letters")
        for packet in encoded(stream, list(range(3)), picture, 5, 2):
            output.mux(packet)
    with caplog.at_level(logging.INFO):
        upscale_video(twice, tmp_path / "a.mkv", tmp_path / "b.mp4")
    assert "stream 1 (attachment) is left out" in caplog.text


# Stopping and going on


def stop_after(frames: int) -> Callable[..., bool]:
    return lambda done, total, preview: done < frames


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
def test_a_stopped_run_goes_on(twice, tmp_path, ending, lossless):
    source = write(tmp_path / f"a{ending}", [number * 512 for number in range(24)], options={"g": "5"})
    straight, target = tmp_path / "straight.mkv", tmp_path / "b.mkv"
    upscale_video(twice, source, straight, segment_frames=4, lossless=lossless)
    options: dict[str, Any] = {"segment_frames": 4, "lossless": lossless}
    seen = twice.seen
    with pytest.raises(CancelledError, match="stopped the work at step 11 of 2"):
        upscale_video(twice, source, target, callback=stop_after(11), **options)
    assert not target.exists()
    result = upscale_video(twice, source, target, **options)
    assert (result.frames, result.resumed) == (24, 8)
    assert twice.seen - seen == 16 + 16
    assert read(target)[0] == read(straight)[0]
    if lossless:  # libx264 itself encodes one segment in two hundred in another way
        assert packets_of(target, "video") == packets_of(straight, "video")
    assert not (tmp_path / "b.mkv.parts").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(twice, tmp_path):
    source = write(tmp_path / "a.mp4", [number * 512 for number in range(12)])
    program = (
        "import os, sys; sys.path[:0] = [os.path.dirname(sys.argv[1])]; from test_video import *\n"
        "upscale_video(Twice(), sys.argv[2], sys.argv[3], segment_frames=4,"
        " callback=lambda done, *_: os._exit(9) if done == 7 else None)"
    )
    command = [sys.executable, "-c", program, __file__, str(source), str(tmp_path / "b.mp4")]
    assert subprocess.run(command, check=False).returncode == 9
    assert not (tmp_path / "b.mp4").exists()
    assert upscale_video(twice, source, tmp_path / "b.mp4", segment_frames=4).resumed == 4
    assert len(read(tmp_path / "b.mp4")[0]) == 12


def test_another_setting_does_not_go_on(twice, tmp_path):
    source, target = write(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(CancelledError):
        upscale_video(twice, source, target, segment_frames=2, callback=stop_after(5))
    with pytest.raises(OutputError, match="has segments made with another seed; delete it or overwrite it"):
        upscale_video(twice, source, target, seed=1)
    assert upscale_video(twice, source, target, tile=64).resumed == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_overwrite_begins_again(twice, tmp_path, seed):
    source, target = write(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(CancelledError):
        upscale_video(twice, source, target, segment_frames=2, callback=stop_after(5))
    result = upscale_video(twice, source, target, seed=seed, overwrite=True)
    assert (result.frames, result.resumed) == (10, 0)


@pytest.mark.parametrize("damage", [lambda content: b"garbage", lambda content: content[: len(content) // 2]])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_damaged_segment_is_made_again(twice, tmp_path, damage, lossless):
    source, target = write(tmp_path / "a.mp4"), tmp_path / "b.mkv"
    with pytest.raises(CancelledError):
        upscale_video(twice, source, target, segment_frames=3, lossless=lossless, callback=stop_after(9))
    part = tmp_path / "b.mkv.parts" / f"000001{'.mkv' if lossless else '.mp4'}"
    part.write_bytes(damage(part.read_bytes()))
    result = upscale_video(twice, source, target, segment_frames=3, lossless=lossless)
    assert (result.frames, result.resumed, len(read(target)[0])) == (10, 3, 10)


def test_a_run_without_a_finished_segment_leaves_nothing(twice, tmp_path):
    source = write(tmp_path / "a.mp4")
    with pytest.raises(CancelledError):
        upscale_video(twice, source, tmp_path / "new" / "b.mp4", callback=stop_after(3))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_in_the_way(twice, tmp_path):
    source = write(tmp_path / "a.mp4")
    (tmp_path / "b.mp4.parts").mkdir()
    (tmp_path / "b.mp4.parts" / "mine.txt").touch()
    with pytest.raises(OutputError, match=r"b\.mp4\.parts' is in the way of the segments; move it"):
        upscale_video(twice, source, tmp_path / "b.mp4", overwrite=True)
    assert (tmp_path / "b.mp4.parts" / "mine.txt").exists()


# What is refused


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_file_that_breaks_off(twice, tmp_path, ending):
    options = {"movflags": "+faststart"} if ending == ".mp4" else None
    path = write(tmp_path / f"a{ending}", [number * 512 for number in range(80)], container_options=options)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(packets_of(path, "video")[40])])
    target = tmp_path / "b.mp4"
    with pytest.raises(ImageError, match=r"breaks off after \d\.\d+ of 3\.2\d+ s; give end_time") as caught:
        upscale_video(twice, path, target, segment_frames=7)
    assert not target.exists()
    seconds, seen = float(str(caught.value).split("end_time ")[1].split()[0]), twice.seen
    result = upscale_video(twice, path, target, segment_frames=7, end_time=seconds)
    assert twice.seen == seen == result.frames
    assert len(read(target)[0]) == result.frames > 10


@pytest.mark.parametrize("sound", [None, "aac"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"container_options": {"movflags": "+faststart"}, "options": {"bf": "0"}}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
    ],
)
def test_the_last_frames_are_missing(twice, tmp_path, name, options, sound):
    path = write(tmp_path / name, sound=sound, **options)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(packets_of(path, "video")[7])])
    target = tmp_path / "b.mkv"
    with pytest.raises(ImageError, match=r"breaks off after 0\.2\d+ of 0\.4\d* s; give end_time") as caught:
        upscale_video(twice, path, target)
    seconds = float(str(caught.value).split("end_time ")[1].split()[0])
    assert upscale_video(twice, path, target, end_time=seconds).frames == twice.seen == 7


def test_a_part_of_the_last_frame(twice, tmp_path):
    path = write(tmp_path / "a.mp4", container_options={"movflags": "+faststart"})
    content, packet = path.read_bytes(), packets_of(path, "video")[-1]
    path.write_bytes(content[: content.index(packet) + len(packet) // 2])
    with pytest.warns(UserWarning, match="has damaged packets, which are left out"):
        assert upscale_video(twice, path, tmp_path / "b.mp4").frames == 9


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_audio_that_is_longer_than_the_frames(twice, tmp_path, ending):
    path = tmp_path / f"a{ending}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        audio = output.add_stream("aac", rate=48000, layout="mono")
        packets = [*encoded(stream, list(range(10)), picture, 5, 1), *clicks_encoded(audio, 3)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    assert upscale_video(twice, path, tmp_path / "b.mp4").frames == 10


def test_a_header_that_is_missing(twice, tmp_path):
    path = write(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.mp4' is cut off, damaged or no video: Invalid data"):
        upscale_video(twice, path, tmp_path / "b.mp4")


def test_damaged_packets_are_left_out(twice, tmp_path):
    path = write(tmp_path / "a.mov", codec="png", pix_fmt="rgb24")
    content, packet = bytearray(path.read_bytes()), packets_of(path, "video")[4]
    where = content.index(packet)
    content[where : where + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="has damaged packets, which are left out"):
        assert upscale_video(twice, path, tmp_path / "b.mp4").frames == 9


def test_a_size_that_changes(twice, tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuvj420p"
        output.start_encoding()
        for number in range(10):
            file = io.BytesIO()
            Image.fromarray(picture(number)).resize((24, 16) if number < 6 else (32, 16)).save(file, "JPEG")
            packet = av.Packet(file.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            output.mux(packet)
    with pytest.raises(ImageError, match=r"changes its size to 32 x 16 after 0\.240 s; upscale it in two"):
        upscale_video(twice, path, tmp_path / "b.mp4", segment_frames=4)
    assert upscale_video(twice, path, tmp_path / "b.mp4", end_time=0.24).resumed == 6


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"colorspace": 9, "color_trc": 16}, r"is HDR \(PQ\); convert it to SDR first"),
        ({"colorspace": 9, "color_trc": 18}, r"is HDR \(HLG\)"),
        ({"colorspace": 8}, r"has colour matrix 8 of ITU-T H\.273, which is not converted"),
    ],
)
def test_colours_that_are_refused(twice, tmp_path, tags, message):
    source = write(tmp_path / "a.mkv", tags=tags)
    with pytest.raises(ImageError, match=message):
        upscale_video(twice, source, tmp_path / "b.mp4")


def test_files_that_are_no_video(twice, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        for packet in clicks_encoded(stream, 0.5):
            output.mux(packet)
    content = write(tmp_path / "a.mp4").read_bytes().replace(b"avc1", b"zzz1")
    for number, place in enumerate(("http://127.0.0.1:9/a.ts", "a.mp4")):
        head, tail = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n", "\n#EXT-X-ENDLIST\n"
        (tmp_path / f"list{number}.mp4").write_text(f"{head}{place}{tail}")
    (tmp_path / "script.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "codec.mp4").write_bytes(content)
    write(tmp_path / "raw.h264")
    write(tmp_path / "alpha.webm", codec="libvpx-vp9", pix_fmt="yuva420p")
    for name, kind, message in (
        ("sound.mp4", ImageError, "has no video stream"),
        ("list0.mp4", ImageError, "is cut off, damaged or no video"),
        ("list1.mp4", ImageError, "is cut off, damaged or no video"),
        ("script.mp4", ImageError, "is cut off, damaged or no video"),
        ("codec.mp4", ImageError, "has a codec that cannot be decoded"),
        ("raw.h264", ImageError, r"has no frame of codec h264 that can be decoded and has a time"),
        ("alpha.webm", ImageError, "VP8 or VP9 with transparency, which is not decoded"),
        ("missing.mp4", ImageNotFoundError, "there is no file"),
    ):
        with pytest.raises(kind, match=message):
            upscale_video(twice, tmp_path / name, tmp_path / "b.mp4")
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize(
    ("target", "options", "kind", "message"),
    [
        ("b.webm", {}, OutputError, r"video is written as \.mp4, \.m4v, \.mov, \.mkv"),
        ("b.mp4", {"lossless": True}, OutputError, r"lossless video is written as \.mkv"),
        (
            "b.mp4",
            {"start_time": 2, "end_time": 2},
            ArgumentError,
            "start_time must be before end_time, got 2",
        ),
        ("b.mp4", {"end_time": 0}, ArgumentError, "start_time must be before end_time, got 0 and 0"),
        ("b.mp4", {"start_time": -1}, ArgumentError, "start_time must be None or seconds >= 0, got -1"),
        ("b.mp4", {"start_time": 9}, ImageError, "has no frame between start_time and end_time"),
        ("b.mp4", {"crf": 52}, ArgumentError, "crf must be a whole number from 0 to 51, got 52"),
        ("b.mp4", {"segment_frames": 0}, ArgumentError, "segment_frames must be a whole number from 1"),
        ("a.mkv", {"overwrite": True}, OutputError, "it is the source; choose another name"),
        ("there.mp4", {}, OutputError, r"already exists; overwrite \(--overwrite\) or skip it"),
        ("b.mov", {}, OutputError, r"\.mov cannot hold the source's audio and subtitles \(flac\); \.mkv can"),
    ],
)
def test_calls_that_are_refused(twice, tmp_path, target, options, kind, message):
    source = write(tmp_path / "a.mkv", sound="flac")
    (tmp_path / "there.mp4").write_bytes(b"precious")
    with pytest.raises(kind, match=message):
        upscale_video(twice, source, tmp_path / target, **options)
    assert (twice.seen, sorted(os.listdir(tmp_path))) == (0, ["a.mkv", "there.mp4"])


def test_a_result_that_appears_meanwhile_is_kept(twice, tmp_path):
    source, target = write(tmp_path / "a.mp4"), tmp_path / "b.mp4"

    def appear(done: int, total: int, preview: object) -> None:
        target.write_bytes(b"precious")

    with pytest.raises(OutputError, match="already exists"):
        upscale_video(twice, source, target, callback=appear)
    assert target.read_bytes() == b"precious"
    target.rename(tmp_path / "mine.mp4")
    assert upscale_video(twice, source, target).resumed == 10


def test_a_result_that_appears_meanwhile_is_skipped(model_dir, tmp_path):
    job = Job(source=write(tmp_path / "a.mp4"), target=tmp_path / "b.mp4")

    @contextmanager
    def appear(count: int) -> Generator[dict[str, Any]]:
        job.target.write_bytes(b"precious")
        yield {}

    upscaler = FileUpscaler(resolver=SuperResolver.from_pretrained(model_dir, device="cpu"), watch=appear)
    (outcome,) = video.run_videos([job], upscaler, end_time=0.1, existing="skip")
    assert (outcome.status, job.target.read_bytes()) == ("skipped", b"precious")
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="needs permissions of POSIX")
def test_a_replaced_video_keeps_its_permissions(twice, tmp_path):
    source, target = write(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    target.touch(mode=0o600)
    upscale_video(twice, source, target, overwrite=True)
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full(twice, tmp_path, monkeypatch):
    source = write(tmp_path / "a.mp4")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video.os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write '.*b\.mp4': No space left on device"):
        upscale_video(twice, source, tmp_path / "b.mp4")


def test_without_pyav(twice, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_INSTALLED", False)
    with pytest.raises(MissingDependencyError, match=r"video needs PyAV: pip install 'sam-diffsr\[video\]'"):
        upscale_video(twice, tmp_path / "a.mp4", tmp_path / "b.mp4")


# The command


@pytest.fixture(scope="module")
def model_dir(save_tiny_model: Callable[[int], Path]) -> Path:
    return save_tiny_model(1)


def command(model_dir: Path, *arguments: object) -> int:
    return main(["upscale", "-m", str(model_dir), "--device", "cpu", *map(str, arguments)])


def test_the_command(model_dir, tmp_path, capsys):
    source = write(tmp_path / "a.mp4", sound="aac")
    assert command(model_dir, source, "--start-time", 0.1, "--end-time", 0.3, "--crf", 30) == 0
    assert len(read(tmp_path / "a_x4.mp4")[0]) == 5
    assert "a_x4.mp4 (96x64, " in capsys.readouterr().out
    assert command(model_dir, source) == 1
    assert "already exists; overwrite (--overwrite) or skip it" in capsys.readouterr().err
    assert command(model_dir, source, "--dry-run") == 1
    assert "already exists; overwrite (--overwrite) or skip it" in capsys.readouterr().err
    assert command(model_dir, source, "--skip-existing") == 0
    assert "already exists, skipped" in capsys.readouterr().out
    assert command(model_dir, source, "--overwrite", "--width", 30) == 0
    assert read(tmp_path / "a_large.mp4")[1][0].shape == (20, 30, 3)
    assert command(model_dir, source, "--quality", "lossless", "--dry-run", "--scale", 2) == 0
    assert "a_x2.mkv (48x32, would be made)" in capsys.readouterr().out
    assert command(model_dir, source, "-o", tmp_path / "x.avi", "--dry-run") == 1
    assert "video is written as .mp4, .m4v, .mov, .mkv" in capsys.readouterr().err
    for quality in ([], ["--quality", "lossless"]):
        assert command(model_dir, source, "-o", "-", *quality) == 1
        assert "a video cannot go to standard output; name a file" in capsys.readouterr().err
    assert not (tmp_path / "a_x2.mkv").exists()
    assert command(model_dir, source, "-o", tmp_path / "c.mkv", "--quality", "lossless", "--keep-time") == 0
    assert (tmp_path / "c.mkv").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert command(model_dir, source, "--start-time", 3, "--end-time", 2, "--overwrite") == 2
    assert "--start-time must be before --end-time, got 3 and 2" in capsys.readouterr().err


def test_options_that_change_nothing_are_named(model_dir, tmp_path, capsys):
    source = write(tmp_path / "a.mp4")
    assert command(model_dir, source, "--ext", "png", "--quality", 80, "--wrap", "--dry-run") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sam-diffsr: warning: --ext and --quality have no effect: all inputs are videos"
    assert command(model_dir, source, "--quality", "lossless", "--crf", 20, "--dry-run") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sam-diffsr: warning: --crf has no effect: lossless video has no loss to choose"


def test_a_job_with_a_problem_fails_and_the_next_is_done(model_dir, tmp_path):
    source = write(tmp_path / "a.mp4")
    upscaler = FileUpscaler(resolver=SuperResolver.from_pretrained(model_dir, device="cpu"))
    bad = Job(source=source, target=tmp_path / "bad.mp4", problem=ArgumentError("refused"))
    good = Job(source=source, target=tmp_path / "good.mp4")
    outcomes = list(video.run_videos([bad, good], upscaler, end_time=0.1))
    assert [outcome.status for outcome in outcomes] == ["failed", "written"]
    assert outcomes[0].error is bad.problem


def test_a_header_is_read_once(model_dir, tmp_path, monkeypatch):
    read_headers, real = [], video._Clip

    def counted(*arguments: Any) -> Any:
        read_headers.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(video, "_Clip", counted)
    assert command(model_dir, write(tmp_path / "a.mp4"), "--end-time", 0.1) == 0
    assert len(read_headers) == 1


def test_images_and_videos_together(model_dir, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture(0)).save(folder / "a.png")
    write(folder / "clip.mp4")
    (folder / "bad.mp4").write_bytes(b"x")
    assert command(model_dir, folder, "-o", tmp_path / "large") == 0
    assert os.listdir(tmp_path / "large") == ["a_out.png"]
    assert "left out of" in (said := capsys.readouterr().err)
    assert ".mp4: 2 (videos are upscaled by their names)" in said
    assert command(model_dir, *sorted(folder.iterdir()), "-o", tmp_path / "both") == 1
    assert sorted(os.listdir(tmp_path / "both")) == ["a_out.png", "clip_out.mp4"]
    assert "bad.mp4' is cut off, damaged or no video" in capsys.readouterr().err
