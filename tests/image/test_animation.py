"""Animations in and out: frames, durations, loops, transparency."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import ImageError, ImageTooLargeError, OutputError
from sam_diffsr.image import Animation, DecodedImage, decode_frames, join_frames, save_image

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
TIMES = [100, 250, 40]


def frames(transparent: bool) -> list[Image.Image]:
    """Plain colours; transparent ones have a clear half that moves."""
    made: list[Image.Image] = []
    for index, colour in enumerate(COLOURS):
        frame = Image.new("RGBA", (12, 8), (*colour, 255))
        if transparent:
            frame.paste((0, 0, 0, 0), (0, 0, 4 + index, 8))
        made.append(frame if transparent else frame.convert("RGB"))
    return made


def write(path: Path, images: list[Image.Image], loop: int | None) -> Path:
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {"disposal": 2}
    if loop is not None:
        options["loop"] = loop
    images[0].save(path, save_all=True, append_images=images[1:], duration=TIMES, **options)
    return path


def decode(path: Path) -> Animation:
    animation = decode_frames(path)
    assert isinstance(animation, Animation)
    return animation


def test_frames_that_grow_are_refused(tmp_path: Path):
    """A later frame of a GIF may enlarge the picture, beyond the limit that its header obeys."""
    data = bytearray(write(tmp_path / "a.gif", frames(False), 0).read_bytes())
    assert data[6:10] == struct.pack("<HH", 12, 8)
    first = data.index(b"\x2c")
    second = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 12, 8), first + 9)
    data[second + 5 : second + 9] = struct.pack("<HH", 400, 400)
    (tmp_path / "b.gif").write_bytes(data)
    with pytest.raises(ImageError, match=r"frame 2 of .*b\.gif' cannot be decoded"):
        decode_frames(tmp_path / "b.gif", max_pixels=400)


def test_an_animation_that_is_cut_off_is_refused(tmp_path: Path):
    data = write(tmp_path / "a.gif", [Image.effect_noise((30, 20), 90)] * 3, 0).read_bytes()
    for size in range(len(data) * 2 // 3, len(data) - 200, 7):
        (tmp_path / "b.gif").write_bytes(data[:size])
        with pytest.raises(ImageError, match=r"b\.gif"):
            decode_frames(tmp_path / "b.gif")


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("loop", [0, 3])
@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_frames_times_and_loops_are_read(tmp_path: Path, ending: str, loop: int, transparent: bool):
    expected = frames(transparent)
    animation = decode(write(tmp_path / f"a{ending}", expected, loop))
    assert (animation.durations, animation.loop) == (TIMES, loop)
    for frame, wanted in zip(animation.frames, expected, strict=True):
        assert frame.mode == wanted.mode
        got, want = np.asarray(frame), np.asarray(wanted)
        shown = want[..., -1:] > 0 if transparent else np.ones((8, 12, 1), bool)
        np.testing.assert_array_equal(got * shown, want * shown)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("loop", [0, 1, 3])
@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, loop: int, transparent: bool):
    source = decode(write(tmp_path / "a.png", frames(transparent), loop))
    save_image(join_frames(source.frames, source), tmp_path / f"b{ending}", quality="lossless")
    again = decode(tmp_path / f"b{ending}")
    assert (again.durations, again.loop) == (TIMES, loop)
    for frame, wanted in zip(again.frames, source.frames, strict=True):
        got, want = np.asarray(frame).astype(int), np.asarray(wanted).astype(int)
        shown = want[..., -1:] > 0 if transparent else np.ones((8, 12, 1), bool)
        assert abs((got - want) * shown).max() <= 3  # GIF chooses 256 colours


def test_a_gif_without_a_loop_plays_once(tmp_path: Path):
    assert decode(write(tmp_path / "a.gif", frames(False), None)).loop == 1


def test_a_still_image_is_decoded_as_ever(tmp_path: Path):
    frames(False)[0].save(tmp_path / "a.png")
    assert isinstance(decode_frames(tmp_path / "a.png"), DecodedImage)


def test_the_image_for_programs_without_animation_is_no_frame(tmp_path: Path):
    still = Image.new("RGB", (12, 8), "white")
    still.save(tmp_path / "a.png", save_all=True, append_images=frames(False), default_image=True)
    assert len(decode(tmp_path / "a.png").frames) == 3


def test_all_frames_count_towards_the_limit(tmp_path: Path):
    path = write(tmp_path / "a.gif", frames(False), 0)
    with pytest.raises(
        ImageTooLargeError, match=r"a\.gif' has 3 frames of 12 x 8 = 288 pixels, more than .* 287"
    ):
        decode_frames(path, max_pixels=287)


def test_a_file_that_is_cut_off_names_the_frame(tmp_path: Path):
    noise = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(3)]
    path = write(tmp_path / "a.png", noise, 0)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageError, match=r"frame 3 of .*a\.png' cannot be decoded"):
        decode_frames(path)


def test_a_still_gif_is_refused(tmp_path: Path):
    with pytest.raises(
        OutputError, match=r"GIF has 256 colours and is written for animations only; use \.png"
    ):
        save_image(Image.new("RGB", (4, 4)), tmp_path / "a.gif")


def test_a_file_that_holds_one_image_gets_the_first_frame(tmp_path: Path):
    animation = decode(write(tmp_path / "a.gif", frames(False), 0))
    assert animation.as_target_holds(tmp_path / "b.webp", "a.gif") is animation
    with pytest.warns(UserWarning, match="has 3 frames; only its first frame is used"):
        assert animation.as_target_holds(tmp_path / "b.jpg", "a.gif") is animation.first
