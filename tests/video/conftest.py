"""Small clips that PyAV writes: a moving bar on a still ground, a tone, subtitles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam_diffsr.pipeline import SuperResolver

av = pytest.importorskip("av")
TICK = Fraction(1, 12800)


@pytest.fixture(scope="session")
def resolver(save_tiny_model: Callable[[int], Path]) -> SuperResolver:
    return SuperResolver.from_pretrained(save_tiny_model(1), device="cpu")


def picture(number: int, height: int = 16, width: int = 24) -> np.ndarray:
    """A frame: a still gradient, and a bar that goes to the right."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows * 9, columns * 7, 200 - columns * 3], axis=-1).clip(0, 255).astype(np.uint8)
    frame[height // 2 :, (number * 2) % width :][:, :3] = (250, 240, 20)
    return frame


def tone(seconds: float) -> Iterator[Any]:
    """Frames of silence with a click of one sample in the middle of every second, at 48 kHz."""
    wave = np.zeros(int(seconds * 48000) // 1024 * 1024, np.float32)
    wave[24000::48000] = 0.9
    for first in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, first
        yield frame


def write(
    path: Path,
    times: Sequence[int] | int = 10,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    tick: Fraction = TICK,
    sound: str | None = None,
    subtitles: str | None = None,
    frames: Callable[[int], np.ndarray] = picture,
    options: dict[str, str] | None = None,
    tags: dict[str, Any] | None = None,
    prepare: Callable[[Any], object] = lambda stream: None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip of frames at some times, or of a number of frames at 25 per second."""
    times = [int(number / (25 * tick)) for number in range(times)] if isinstance(times, int) else times
    height, width = frames(0).shape[:2]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = tick
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        audio = output.add_stream(sound, rate=48000, layout="mono") if sound else None
        output.metadata.update(metadata or {})
        text = output.add_stream(subtitles) if subtitles else None
        full = (tags or {}).get("color_range", 1)
        matrix = {9: 9, 1: 1}.get((tags or {}).get("colorspace"), 5)
        packets = []
        for number, time in enumerate(times):
            rgb = frames(number)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgba" if rgb.shape[2] == 4 else "rgb24").reformat(
                format=pix_fmt,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=2,
                dst_color_range=full,
            )
            frame.pts, frame.time_base = time, tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if audio:
            for frame in tone(float((times[-1] + 512) * tick)):
                packets += audio.encode(frame)
            packets += audio.encode(None)
        if text:
            packet = av.Packet(b"hello" if subtitles != "mov_text" else b"\x00\x05hello")
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 80
            packet.duration = 200
            packets.append(packet)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            output.mux(packet)
    return path


def read(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Times in seconds and RGB frames, as a player would show them but for turns."""
    with av.open(str(path)) as container:
        found = [
            (
                frame.pts * frame.time_base,
                frame.to_ndarray(
                    format="rgb24",
                    src_colorspace=_matrix(frame),
                    dst_colorspace=5,
                    src_color_range=frame.color_range or 1,
                    dst_color_range=2,
                ),
            )
            for frame in container.decode(video=0)
        ]
    return [time for time, _ in found], [frame for _, frame in found]


def _matrix(frame: Any) -> int:
    return {1: 1, 9: 9}.get(frame.colorspace, 5)
