"""What upscaling does to a video: frames, sound, flicker and memory, on clips made of two photographs.

A textured square moves over a still ground, one pixel per frame; the sound clicks twice a second::

    python examples/lab/video.py work --model small

Flicker is the mean absolute difference of consecutive frames (levels of 255): of the still ground, and of
the square, each frame shifted back by its motion. Memory is the peak of a process that upscales a clip of 2
and of 20 seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from sam_diffsr import SuperResolver
from sam_diffsr.resize import imresize
from sam_diffsr.video import upscale_video

EXAMPLES = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, SIDE, TOP = 64, 96, 24, 20
MARGIN = 8
"""Pixels around the square, and at its border, that belong neither to it nor to the ground."""


def place(number: int) -> int:
    """Left border of the square in a frame."""
    way = number % (2 * (WIDTH - SIDE))
    return min(way, 2 * (WIDTH - SIDE) - way)


def make_clip(path: Path, seconds: int, rate: int) -> None:
    """Write H.264 and AAC."""
    ground = np.asarray(Image.open(EXAMPLES / "chelsea_lr.png").convert("RGB"))[:HEIGHT, :WIDTH]
    nuts = Image.open(EXAMPLES / "nuts.webp").convert("RGB")
    square = np.asarray(nuts.reduce(4))[:SIDE, :SIDE]
    with av.open(str(path), "w") as output:
        pictures = output.add_stream("libx264", rate=rate, width=WIDTH, height=HEIGHT, options={"crf": "16"})
        sound: Any = output.add_stream("aac", rate=48000, layout="mono")
        for number in range(seconds * rate):
            frame = ground.copy()
            frame[TOP : TOP + SIDE, place(number) : place(number) + SIDE] = square
            output.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(pictures.encode(None))
        wave = np.zeros(seconds * 48000 // 1024 * 1024, np.float32)
        wave[12000::24000] = 0.9
        for first in range(0, len(wave), 1024):
            piece = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = 48000, first
            output.mux(sound.encode(piece))
        output.mux(sound.encode(None))


def frames_of(path: Path) -> Iterator[tuple[Fraction, np.ndarray[Any, Any]]]:
    """Times in seconds, and RGB frames as floats."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield (
                Fraction(frame.pts or 0) * (frame.time_base or 0),
                frame.to_ndarray(format="rgb24").astype(float),
            )


def clicks_of(path: Path) -> list[float]:
    """Seconds from the first frame to each click."""
    start, found = next(frames_of(path))[0], list[float]()
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray()[0])
            if wave.max() > 0.3:
                time = Fraction(frame.pts or 0) * (frame.time_base or 0)
                found.append(float(time - start) + int(wave.argmax()) / frame.sample_rate)
    return found


def flicker(frames: Iterator[np.ndarray[Any, Any]], scale: int) -> tuple[float, float]:
    """Of the still ground and of the moving square."""
    still: list[float] = []
    moving: list[float] = []
    before = next(frames)
    inner, top = (SIDE - 2 * MARGIN) * scale, (TOP + MARGIN) * scale
    for number, after in enumerate(frames):
        difference = np.abs(after - before)
        ground = np.ones(difference.shape[:2], bool)
        left = min(place(number), place(number + 1)) - MARGIN
        rows = slice((TOP - MARGIN) * scale, (TOP + SIDE + MARGIN) * scale)
        ground[rows, max(left, 0) * scale : (left + SIDE + 2 * MARGIN + 1) * scale] = False
        still.append(difference[ground].mean())
        a, b = ((place(number + step) + MARGIN) * scale for step in (0, 1))
        one, other = before[top : top + inner, a : a + inner], after[top : top + inner, b : b + inner]
        moving.append(np.abs(other - one).mean())
        before = after
    return float(np.mean(still)), float(np.mean(moving))


def bicubic(frame: np.ndarray[Any, Any], scale: int) -> np.ndarray[Any, Any]:
    """A frame enlarged by bicubic interpolation."""
    lr = torch.from_numpy(frame / 255).permute(2, 0, 1)[None].float()
    return (imresize(lr, scale).clamp(0, 1)[0].permute(1, 2, 0) * 255).round().numpy()


def main() -> None:
    """Make the clips, upscale them and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for the clips")
    parser.add_argument("--model", default="small", help="model (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="of the clip (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=10, help="frames per second (default: %(default)s)")
    parser.add_argument("--memory", type=int, nargs="*", default=[2, 20], help="seconds of clips for memory")
    parser.add_argument(
        "--alone", type=int, help="upscale one clip of so many seconds and print the peak in MB"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    resolver = SuperResolver.from_pretrained(arguments.model)
    seconds = arguments.alone or arguments.seconds
    clip = arguments.folder / f"clip{seconds}.mp4"
    make_clip(clip, seconds, arguments.rate)
    if arguments.alone is not None:
        upscale_video(resolver, clip, clip.with_name(f"large{seconds}.mp4"), overwrite=True, progress=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    for lossless, name in ((False, "large.mp4"), (True, "large.mkv")):
        large = arguments.folder / name
        result = upscale_video(resolver, clip, large, lossless=lossless, overwrite=True, progress=False)
        times, before = ([time for time, _ in frames_of(path)] for path in (large, clip))
        late = max(abs((a - times[0]) - (b - before[0])) for a, b in zip(times, before, strict=True))
        off = max(abs(a - b) for a, b in zip(clicks_of(large), clicks_of(clip), strict=True))
        print(f"{name}: {len(before)} frames in, {result.frames} out; largest error of a frame's time")
        print(f"{1000 * float(late):.3f} ms, of the sound against the frames {1000 * off:.3f} ms")
    for name, frames in (
        ("bicubic", (bicubic(frame, resolver.scale) for _, frame in frames_of(clip))),
        (f"{arguments.model}, lossless", (frame for _, frame in frames_of(arguments.folder / "large.mkv"))),
        (f"{arguments.model}, H.264", (frame for _, frame in frames_of(arguments.folder / "large.mp4"))),
    ):
        still, moving = flicker(frames, resolver.scale)
        print(f"flicker of {name}: still ground {still:.3f}, moving square {moving:.3f}")
    for seconds in arguments.memory:
        command = [sys.executable, __file__, str(arguments.folder), "--model", arguments.model]
        command += ["--rate", str(arguments.rate)]
        peak = subprocess.run([*command, "--alone", str(seconds)], capture_output=True, text=True, check=True)
        print(f"peak memory, {seconds} s: {peak.stdout.split()[-1]} MB")


if __name__ == "__main__":
    main()
