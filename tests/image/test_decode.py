"""``decode_image`` and ``encode_image``: every kind of image in, the same kind out; bad input told apart."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, PngImagePlugin

from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError
from sam_diffsr.image import decode_image, encode_image, image_size

ORIENTATION = 0x0112


def pixels(*shape, dtype: npt.DTypeLike = np.uint8, seed=0):
    high = np.iinfo(dtype).max + 1
    values = np.random.default_rng(seed).integers(0, high, shape).astype(dtype)
    if shape[-1] in (2, 4):  # nothing is hidden
        values[..., -1] |= high // 2
    return values


def round_trip(image):
    decoded = decode_image(image)
    return encode_image(decoded.rgb, decoded.alpha, decoded.format)


def cmyk_profile():
    """A minimal ICC profile (lut8, two grid points) in which any ink makes paper black; PCS Lab."""
    curves = bytes(range(256))
    grid = b"".join(bytes((255 if index == 0 else 0, 128, 128)) for index in range(16))
    identity = struct.pack(">9i", *(0x10000 if k % 4 == 0 else 0 for k in range(9)))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + curves * 4 + grid + curves * 3
    head = bytearray(128)
    struct.pack_into(
        ">I4sI4s4s4s", head, 0, 128 + 16 + len(lut), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    head[36:40] = b"acsp"
    struct.pack_into(">3I", head, 68, 0x0000F6D6, 0x00010000, 0x0000D32D)
    return bytes(head) + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut


def exif_bytes(orientation=None, **extra):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    if orientation is not None:
        exif[ORIENTATION] = orientation
    if extra:
        exif[0x8769] = {int(tag[1:], 16): value for tag, value in extra.items()}
    return exif.tobytes()


# Arrays


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 1, 3)])
def test_integer_arrays_come_back_equal(shape, dtype):
    array = pixels(*shape, dtype=dtype)
    result = round_trip(array)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.dtype(dtype).newbyteorder("=")
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_float_arrays_come_back_close(shape, dtype):
    array = (0.2 + 0.8 * np.random.default_rng(0).random(shape)).astype(dtype)
    result = round_trip(array)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_allclose(result, array, rtol=0, atol=1e-3 if dtype == "float16" else 1e-6)


def test_every_8_and_16_bit_value_survives():
    for dtype in (np.uint8, np.uint16):
        array = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(256, -1)
        np.testing.assert_array_equal(round_trip(array), array)


def test_rgb_is_float32_in_zero_to_one():
    decoded = decode_image(np.array([[[0, 128, 255]]], dtype=np.uint8))
    assert decoded.rgb.dtype == torch.float32
    assert decoded.rgb.is_contiguous()
    assert decoded.alpha is None
    torch.testing.assert_close(decoded.rgb, torch.tensor([0, 128 / 255, 1]).reshape(1, 3, 1, 1))


def test_gray_is_three_equal_channels_and_alpha_is_apart():
    array = pixels(4, 6, 2)
    decoded = decode_image(array)
    assert decoded.rgb.shape == (1, 3, 4, 6)
    assert decoded.alpha is not None
    assert decoded.alpha.shape == (1, 1, 4, 6)
    assert torch.equal(decoded.rgb[:, 0], decoded.rgb[:, 2])
    torch.testing.assert_close(decoded.alpha[0, 0], torch.from_numpy(array[..., 1]) / 255)
    assert decoded.format.grayscale
    assert decoded.format.has_alpha


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::2], np.s_[:, :, ::-1]])
def test_strided_arrays_are_read_as_they_look(view):
    array = pixels(6, 8, 3)[view]
    np.testing.assert_array_equal(round_trip(array), array)


def test_arrays_are_not_changed_and_not_shared():
    array = np.linspace(-1e-7, 1, 12, dtype=np.float32).reshape(3, 4)
    before = array.copy()
    decoded = decode_image(array)
    decoded.rgb.zero_()
    np.testing.assert_array_equal(array, before)


def test_read_only_arrays_are_taken_without_a_warning():
    array = pixels(3, 4, 3)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(array)
        decode_image((array / 255).astype(np.float32))


def test_float_rounding_beyond_the_range_is_clipped():
    decoded = decode_image(np.array([[-5e-7, 1 + 5e-7]]))
    assert decoded.rgb.min() == 0
    assert decoded.rgb.max() == 1


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "complex64", "object"])
def test_other_array_types_are_refused(dtype):
    with pytest.raises(ImageError, match=f"must be of type uint8, uint16, .* got {dtype}"):
        decode_image(np.zeros((4, 4, 3), dtype=dtype))


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4, 3), (4, 4, 5), (4, 4, 0), ()])
def test_wrong_array_shapes_are_refused(shape):
    with pytest.raises(ImageError, match=r"must be of shape \(H, W\) or \(H, W, C\).*got \("):
        decode_image(np.zeros(shape, dtype=np.uint8))


def test_channels_first_arrays_are_told_how_to_turn():
    with pytest.raises(ImageError, match=r"got \(3, 8, 9\); put the channels last"):
        decode_image(np.zeros((3, 8, 9), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 3)])
def test_arrays_without_pixels_are_refused(shape):
    with pytest.raises(ImageError, match="has no pixels"):
        decode_image(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(value):
    array = np.zeros((4, 5), dtype=np.float32)
    array[1, 2] = value
    with pytest.raises(ImageError, match=r"holds NaN or infinity \(1 of 20 samples\)"):
        decode_image(array)


@pytest.mark.parametrize(("low", "high", "advice"), [(0, 255, "divide"), (-0.5, 1, "bring -1..1 to 0..1")])
def test_floats_outside_of_the_range_are_refused(low, high, advice):
    with pytest.raises(ImageError, match=f"got values from {low} to {high}; {advice}"):
        decode_image(np.array([[low, high]], dtype=np.float64))


@pytest.mark.parametrize("thing", [None, 3, b"photo.png", torch.zeros(1, 3, 4, 4)])
def test_other_things_are_refused(thing):
    with pytest.raises(ImageError, match="must be a PIL image, a numpy array, a path or an open file, got "):
        decode_image(thing)


# PIL modes


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_eight_bit_pil_images_come_back_equal(mode):
    image = Image.fromarray(pixels(5, 7, len(mode)).squeeze())
    assert image.mode == mode
    result = round_trip(image)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (mode, (7, 5))
    assert result.tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_gray_pil_images_come_back_equal(mode):
    image = Image.fromarray(pixels(5, 7, dtype=np.uint16).astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    result = round_trip(image)
    assert isinstance(result, Image.Image)
    assert result.mode == mode
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image))


def test_float_pil_images_come_back_close():
    image = Image.fromarray(np.random.default_rng(0).random((5, 7), dtype=np.float32))
    result = round_trip(image)
    assert isinstance(result, Image.Image)
    assert result.mode == "F"
    np.testing.assert_allclose(np.asarray(result), np.asarray(image), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "result_mode"),
    [
        *[("1", "L"), ("P", "RGB"), ("PA", "RGBA"), ("La", "LA"), ("RGBa", "RGBA"), ("RGBX", "RGB")],
        *[("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("I;16B", "I;16")],
    ],
)
def test_other_modes_become_the_nearest_plain_one(mode, result_mode):
    result = round_trip(Image.new(mode, (7, 5)))
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (result_mode, (7, 5))


def test_a_mode_that_pillow_cannot_convert_is_refused(monkeypatch):
    def convert(self, mode):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(ImageError, match="PIL mode 'HSV', which cannot be converted"):
        decode_image(Image.new("HSV", (2, 2)))


def test_one_bit_is_black_and_white():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert decode_image(image).rgb[0, 0].tolist() == [[1.0, 0.0]]


def test_palette_colours_and_their_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode_image(image).rgb[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]
    image.info["transparency"] = 0
    decoded = decode_image(image)
    assert decoded.alpha is not None
    assert decoded.alpha.flatten().tolist() == [0, 1]
    result = round_trip(image)
    assert isinstance(result, Image.Image)
    assert result.mode == "RGBA"


def test_palette_with_alpha():
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30, 51], rawmode="RGBA")
    decoded = decode_image(image)
    assert decoded.alpha is not None
    torch.testing.assert_close(decoded.alpha, torch.full((1, 1, 1, 1), 0.2))


@pytest.mark.parametrize(
    ("mode", "key", "result_mode"), [("L", 7, "LA"), ("1", 255, "LA"), ("RGB", (7, 7, 7), "RGBA")]
)
def test_a_transparent_colour_becomes_alpha(tmp_path, mode, key, result_mode):
    image = Image.new("L", (2, 1), 7).convert(mode)
    image.putpixel((1, 0), key)
    image.save(tmp_path / "keyed.png", transparency=key)
    decoded = decode_image(tmp_path / "keyed.png")
    assert decoded.alpha is not None
    assert decoded.alpha[0, 0, 0, 1] == 0
    result = encode_image(decoded.rgb, decoded.alpha, decoded.format)
    assert isinstance(result, Image.Image)
    assert result.mode == result_mode


def test_a_transparent_colour_beside_16_bits_is_left_out_with_a_warning():
    image = Image.new("I;16", (2, 1))
    image.info["transparency"] = 0
    with pytest.warns(UserWarning, match="the transparent colour of the image is left out"):
        assert decode_image(image).alpha is None


def test_mode_i_beyond_16_bits_is_refused():
    with pytest.raises(ImageError, match=r"mode 'I' and must hold 16-bit values.* from 0 to 70000"):
        decode_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))


def test_mode_f_with_8_bit_values_is_refused():
    with pytest.raises(ImageError, match="got values from 200 to 200; divide"):
        decode_image(Image.new("F", (2, 2), 200.0))


def test_cmyk_goes_through_its_profile():
    image = Image.new("CMYK", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 0))
    plain = decode_image(image).rgb[0, :, 0].T.tolist()
    assert plain == [[1, 1, 1], [0, 1, 1]]
    image.info["icc_profile"] = cmyk_profile()
    decoded = decode_image(image)
    torch.testing.assert_close(
        decoded.rgb[0, :, 0].T, torch.tensor([[1.0] * 3, [0.0] * 3]), rtol=0, atol=0.02
    )
    assert "icc_profile" not in decoded.format.metadata


def test_cmyk_with_a_broken_profile_goes_by_the_plain_formula():
    image = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    image.info["icc_profile"] = b"no profile"
    assert decode_image(image).rgb.flatten().tolist() == [0, 1, 1]


def test_the_pil_image_is_not_changed():
    image = Image.fromarray(pixels(4, 6, 3))
    image.info["exif"] = exif_bytes(6)
    before = image.tobytes()
    round_trip(image)
    assert image.tobytes() == before
    assert image.getexif()[ORIENTATION] == 6
    assert image.size == (6, 4)


# Files


def test_files_come_back_as_pil_images(tmp_path):
    image = Image.fromarray(pixels(5, 7, 3))
    path = tmp_path / "Фото – 写真.png"
    image.save(path)
    for source in (path, str(path)):
        result = round_trip(source)
        assert isinstance(result, Image.Image)
        assert result.tobytes() == image.tobytes()


def test_files_are_closed(tmp_path):
    Image.fromarray(pixels(5, 7, 3)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        decode_image(tmp_path / "a.png")
        os.rename(tmp_path / "a.png", tmp_path / "b.png")


def test_16_bit_gray_png_stays_16_bit(tmp_path):
    array = pixels(5, 7, dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "deep.png")
    result = round_trip(tmp_path / "deep.png")
    assert isinstance(result, Image.Image)
    assert result.mode in ("I;16", "I")  # older Pillow reads such files as "I"
    np.testing.assert_array_equal(np.asarray(result), array)


def test_16_bit_colour_png_warns_that_pillow_reads_8(tmp_path):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 0, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    with pytest.warns(UserWarning, match="16 bits per sample in several channels, of which 8 are read"):
        decoded = decode_image(path)
    assert decoded.rgb[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_ordinary_files_do_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.webp"):
            Image.fromarray(pixels(5, 7, 3)).save(tmp_path / name)
            decode_image(tmp_path / name)


def test_animations_give_their_first_frame_and_say_so(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="moving.gif' has 3 frames; only its first frame is used"):
        decoded = decode_image(path)
    assert decoded.rgb[0, :, 0, 0].tolist() == [1, 0, 0]
    with Image.open(path) as image:
        image.seek(1)
        with pytest.warns(UserWarning, match=r"only its current frame \(number 2\)"):
            assert decode_image(image).rgb[0, :, 0, 0].tolist() == [0, 1, 0]


def test_photos_of_phones_hold_previews_and_do_not_warn(tmp_path):
    Image.new("RGB", (8, 6)).save(
        tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (4, 3))], format="MPO"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(tmp_path / "a.mpo").rgb.shape == (1, 3, 6, 8)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("last", [False, True])
def test_long_texts_in_a_png_are_left_out_with_a_warning(tmp_path, kind, last):
    text = b"long " * 300_000
    bodies = {
        "zTXt": b"Comment\0\0" + zlib.compress(text),
        "iTXt": b"Comment\0\1\0en\0key\0" + zlib.compress(text),
        "iCCP": b"Comment\0\0" + zlib.compress(text),
    }
    Image.fromarray(pixels(5, 7, 3)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    chunk = struct.pack(">I", len(bodies[kind])) + kind.encode() + bodies[kind]
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    place = len(data) - 12 if last else 33
    (tmp_path / "a.png").write_bytes(data[:place] + chunk + data[place:])
    with pytest.warns(UserWarning, match="texts or a colour profile larger than 1 MB, or texts whose names"):
        decoded = decode_image(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded.rgb[0].permute(1, 2, 0) * 255, pixels(5, 7, 3))


@pytest.mark.parametrize(
    "key",
    [
        "frames",
        "interlace",
        "bbox",
        "dpi",
        "gamma",
        "srgb",
        "cicp",
        "chromaticity",
        "iptc",
        "icc_profile",
        "transparency",
    ],
)
def test_texts_whose_names_mean_something_else_do_not_break_an_image(tmp_path, key):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(key, "72")
    chunks.add_text("Author", "kept", zip=True)
    Image.fromarray(pixels(5, 7, 3)).save(tmp_path / "a.png", pnginfo=chunks)
    with pytest.warns(UserWarning, match="texts whose names mean something else to Pillow"):
        decoded = decode_image(tmp_path / "a.png")
    assert decoded.format.metadata == {"Author": "kept"}
    with Image.open(tmp_path / "a.png") as opened:  # the same image by another way
        if key not in ("transparency", "interlace", "bbox"):
            assert decode_image(opened).format.metadata == {"Author": "kept"}
        else:  # Pillow itself stops at it
            with pytest.raises(ImageError, match=r"cannot be (converted|decoded)"):
                decode_image(opened)


def png_of_samples(bits: int, kind: int, row: bytes, transparent: bytes) -> io.BytesIO:
    """A PNG of one row."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    samples = len(row) * 8 // bits // (3 if kind == 2 else 1)
    head = struct.pack(">IIBBBBB", samples, 1, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("bits", "kind", "row", "transparent"),
    [
        (1, 0, b"\x80", b"\0\x01"),
        (2, 0, b"\xc0", b"\0\x03"),
        (4, 0, b"\xf0\x00", b"\0\x0f"),
        (8, 0, b"\x07\x08", b"\0\x07"),
        (8, 2, b"\x01\x02\x03\x04\x05\x06", b"\0\x01\0\x02\0\x03"),
        (16, 2, b"\x12\x34\x56\x78\x9a\xbc" + bytes(6), b"\x12\x34\x56\x78\x9a\xbc"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*16 bits per sample")
def test_the_transparent_colour_of_any_depth_becomes_alpha(bits, kind, row, transparent):
    decoded = decode_image(png_of_samples(bits, kind, row, transparent))
    assert decoded.alpha is not None
    assert decoded.alpha.flatten().tolist() == [0.0] + [1.0] * (decoded.alpha.numel() - 1)


def test_the_place_on_the_earth_is_left_out_with_a_warning(tmp_path):
    image = Image.new("L", (6, 4))
    image.save(tmp_path / "a.tif", tiffinfo={33550: (10.0, 10.0, 0.0), 271: "Maker"})
    with pytest.warns(UserWarning, match=r"the place of .*a\.tif' on the earth \(GeoTIFF\) is left out"):
        result = round_trip(tmp_path / "a.tif")
    assert isinstance(result, Image.Image)
    assert 271 in result.getexif()
    assert 33550 not in result.getexif()


def test_icons(tmp_path):
    Image.new("RGBA", (16, 12), "red").save(tmp_path / "a.ico", sizes=[(16, 12)])
    assert decode_image(tmp_path / "a.ico").rgb.shape == (1, 3, 12, 16)


def test_heic_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    try:
        heif.from_pillow(Image.new("RGB", (32, 24), "red")).save(tmp_path / "a.heic")
    except RuntimeError:
        pytest.skip("no HEIC encoder")
    assert decode_image(tmp_path / "a.heic").rgb.shape == (1, 3, 24, 32)


def test_an_open_file_stays_at_its_position(tmp_path):
    Image.fromarray(pixels(5, 7, 3)).save(tmp_path / "a.png")
    file = io.BytesIO(b"head" + (tmp_path / "a.png").read_bytes())
    file.seek(4)
    assert image_size(file) == (5, 7)
    np.testing.assert_array_equal(decode_image(file).rgb[0].permute(1, 2, 0) * 255, pixels(5, 7, 3))
    assert file.tell() == 4
    with (tmp_path / "a.png").open("rb") as opened:
        assert decode_image(opened).rgb.shape == (1, 3, 5, 7)
        opened.close()
        with pytest.raises(ImageError, match="expected an open, seekable binary file"):
            decode_image(opened)
    for empty, message in (
        (io.BytesIO(), "is empty"),
        (io.StringIO("x"), "open as text; open it with mode 'rb'"),
    ):
        with pytest.raises(ImageError, match=message):
            decode_image(empty)  # pyright: ignore[reportArgumentType]


# Bad files


def test_missing_file(tmp_path):
    for expected in (ImageError, FileNotFoundError, ValueError):
        with pytest.raises(expected, match=r"no such file: '.*gone\.png'"):
            decode_image(tmp_path / "gone.png")


@pytest.mark.skipif(os.name != "posix", reason="symbolic links are POSIX's")
def test_a_loop_of_links(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match=r"cannot read .*loop\.png': "):
        decode_image(tmp_path / "loop.png")


def test_folder(tmp_path):
    with pytest.raises(ImageError, match="is a folder; an image file is needed"):
        decode_image(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"is empty \(0 bytes\)"):
        decode_image(tmp_path / "empty.png")


def test_path_that_the_system_refuses():
    with pytest.raises(ImageError, match=r"cannot read .*null"):
        decode_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path / "pipe.png")


def test_not_an_image(tmp_path):
    (tmp_path / "notes.png").write_text("just text", encoding="utf-8")
    with pytest.raises(ImageError, match="is not an image that can be read"):
        decode_image(tmp_path / "notes.png")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    Image.new("L", (2, 2)).save(path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ImageError, match=r"cannot read .*secret\.png': Permission denied"):
        decode_image(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_an_image_that_is_closed_is_called_so(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (5, 4)).save(path)
    unread, read, left = Image.open(path), Image.open(path), Image.open(path)
    unread.close()
    read.load()
    read.close()
    with left:
        pass
    with path.open("rb") as file:
        behind = Image.open(file)
    for image in (unread, read, left, behind):
        with pytest.raises(ImageError, match="the image is closed; use it before it is closed, or give its"):
            decode_image(image)


def test_damaged_header(tmp_path):
    path = tmp_path / "short.tif"
    Image.fromarray(pixels(8, 8)).save(path)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        decode_image(path)


def test_header_that_the_decoder_stumbles_over(tmp_path, monkeypatch):
    path = tmp_path / "odd.png"
    Image.new("L", (2, 2)).save(path)

    def stumble(*args, **kwargs):
        raise KeyError("odd")

    monkeypatch.setattr(Image, "open", stumble)
    with pytest.raises(ImageError, match=r"is damaged: its header cannot be read \('odd'\)"):
        decode_image(path)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.tif", "cut.webp", "cut.gif"])
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(pixels(64, 64, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        decode_image(path)


def test_truncated_jpeg_is_told_from_a_file_that_is_no_image(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(pixels(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(ImageError, match=r"pixels of '.*cut\.jpg' cannot be decoded.*truncated"):
        decode_image(path)


def test_out_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image = Image.new("L", (2, 2))
    image.save(path)

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        decode_image(image)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode_image(path)


# Size limit


def test_large_files_are_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("L", (30, 20)).save(path)
    monkeypatch.setattr("sam_diffsr.image.decode.load_pixels", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match=r"30 x 20 = 600 pixels, more than the limit of 599"):
        decode_image(path, max_pixels=599)


def test_the_limit_can_be_raised_and_lifted(tmp_path):
    image = Image.new("L", (30, 20))
    for max_pixels in (600, None):
        assert decode_image(image, max_pixels=max_pixels).rgb.shape == (1, 3, 20, 30)


def test_the_default_limit_refuses_absurd_sizes():
    array = np.broadcast_to(np.zeros((1, 1), dtype=np.uint8), (100_000, 100_000))
    with pytest.raises(ImageTooLargeError, match="the array has 100000 x 100000"):
        decode_image(array)


def test_max_pixels_below_one_is_refused():
    with pytest.raises(ArgumentError, match="max_pixels must be a whole number >= 1, or None"):
        decode_image(Image.new("L", (2, 2)), max_pixels=0)


@pytest.mark.parametrize("limit", [100, 400])
def test_pillows_own_limit_is_lifted_with_ours_and_then_as_it_was(tmp_path, monkeypatch, limit):
    path = tmp_path / "large.png"
    Image.new("L", (30, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # above the limit Pillow warns, above twice the limit it raises
        for max_pixels in (None, 600):
            assert decode_image(path, max_pixels=max_pixels).rgb.shape == (1, 3, 20, 30)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_is_one_of_our_errors(tmp_path, monkeypatch):
    """It stops only what was opened under it, such as an image that the caller opened."""
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ImageTooLargeError, match=r"exceeds Pillow's limit .*raise max_pixels"):
        decode_image(tmp_path / "a.png", max_pixels=200)


@pytest.mark.parametrize("max_pixels", ["5", 2.5, True])
def test_a_limit_that_is_no_number_is_refused(max_pixels):
    with pytest.raises(ArgumentError, match="max_pixels must be a whole number >= 1, or None"):
        decode_image(Image.new("L", (2, 2)), max_pixels=max_pixels)


# EXIF and ICC


def upright_of(stored, orientation):
    """What a viewer shows, by the definition of EXIF: where row 0 and column 0 of the store belong."""
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }
    return turned[orientation]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_the_size_is_known_from_the_header(tmp_path, orientation, extension):
    path = tmp_path / f"turned.{extension}"
    Image.new("RGB", (7, 4)).save(path, exif=exif_bytes(orientation))
    expected = tuple(decode_image(path).rgb.shape[-2:])
    assert image_size(path) == expected
    with Image.open(path) as image:
        assert image_size(image) == expected
    assert image_size(np.zeros((4, 7))) == (4, 7)


def test_a_size_that_is_none():
    with pytest.raises(ImageError, match="tensors go to upscale_tensor"):
        image_size(torch.zeros(3, 4, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ImageTooLargeError, match="more than the limit of 11"):
        image_size(Image.new("L", (3, 4)), max_pixels=11)
    with pytest.raises(ImageError, match=r"of shape \(H, W\)"):
        image_size(np.zeros(4))
    image = Image.new("L", (3, 4))
    image.info["exif"] = b"Exif\x00\x00broken"
    assert image_size(image) == (4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_orientation_is_applied_exactly_once(tmp_path, orientation, extension):
    stored = pixels(4, 6)
    path = tmp_path / f"turned.{extension}"
    colour = Image.fromarray(np.stack([stored] * 3, axis=-1))
    colour.save(path, exif=exif_bytes(orientation), lossless=True)
    first = round_trip(path)
    assert isinstance(first, Image.Image)
    np.testing.assert_array_equal(np.asarray(first)[..., 0], upright_of(stored, orientation))
    assert ORIENTATION not in first.getexif()
    assert first.getexif()[0x010F] == "Maker"
    second = round_trip(first)
    assert isinstance(second, Image.Image)
    assert second.tobytes() == first.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "CMYK"])
def test_orientation_in_other_modes(mode):
    image = Image.new(mode, (6, 4))
    image.info["exif"] = exif_bytes(6)
    assert decode_image(image).rgb.shape == (1, 3, 6, 4)


def test_an_orientation_out_of_range_is_ignored():
    image = Image.new("L", (6, 4))
    image.info["exif"] = exif_bytes(99)
    decoded = decode_image(image)
    assert decoded.rgb.shape == (1, 3, 4, 6)
    assert "exif" in decoded.format.metadata


def test_pixel_dimensions_in_exif_follow_the_result():
    image = Image.new("RGB", (6, 4))
    image.info["exif"] = exif_bytes(xA002=6, xA003=4, x9003="2024:01:02 03:04:05", x9214=(4, 3, 2, 2))
    decoded = decode_image(image)
    result = encode_image(torch.rand(1, 3, 16, 24), None, decoded.format)
    assert isinstance(result, Image.Image)
    details = result.getexif().get_ifd(0x8769)
    assert details == {0xA002: 24, 0xA003: 16, 0x9003: "2024:01:02 03:04:05"}


def test_the_layout_of_a_tiff_file_is_not_carried_over(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.new("L", (6, 4)).save(tmp_path / "a.tif", exif=exif)
    result = round_trip(tmp_path / "a.tif")
    assert isinstance(result, Image.Image)
    assert set(result.getexif()) <= {0x010F, 0x011A, 0x011B, 0x0128}


def test_a_broken_exif_block_is_left_out_with_a_warning():
    image = Image.new("L", (6, 4))
    image.info["exif"] = b"Exif\0\0broken"
    with pytest.warns(UserWarning, match="EXIF block of the image cannot be read whole and is left out"):
        decoded = decode_image(image)
    assert "exif" not in decoded.format.metadata
    assert decoded.rgb.shape == (1, 3, 4, 6)


def test_a_block_that_cannot_be_carried_over_still_turns_the_image(monkeypatch):
    def fail(self, offset=8):
        raise struct.error("odd value")

    image = Image.new("L", (6, 4))
    image.info["exif"] = exif_bytes(6)
    monkeypatch.setattr(Image.Exif, "tobytes", fail)
    with pytest.warns(UserWarning, match=r"is left out \(odd value\)"):
        decoded = decode_image(image)
    assert decoded.rgb.shape == (1, 3, 6, 4)
    assert "exif" not in decoded.format.metadata


def test_images_without_metadata_get_none():
    result = round_trip(Image.new("RGB", (6, 4)))
    assert isinstance(result, Image.Image)
    assert not result.info


def test_the_icc_profile_is_kept():
    image = Image.new("RGB", (6, 4))
    image.info["icc_profile"] = b"profile"
    result = round_trip(image)
    assert isinstance(result, Image.Image)
    assert result.info["icc_profile"] == b"profile"


# Resolution, XMP, texts and colour chunks


def test_resolution_xmp_texts_and_colour_are_kept(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 100000))
    chunks.add(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    chunks.add(b"cICP", bytes((9, 16, 0, 1)))
    chunks.add_text("Author", "Ärger")
    chunks.add_itxt("XML:com.adobe.xmp", '<a tiff:Orientation="6" b="1"/>')
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png", pnginfo=chunks, dpi=(300, 150))
    data = bytearray((tmp_path / "a.png").read_bytes())
    result = round_trip(tmp_path / "a.png")
    assert isinstance(result, Image.Image)
    assert result.size == (4, 6), "XMP's orientation is applied"
    assert result.info["gamma"] == 1
    assert result.info["chromaticity"][2] == 0.68
    assert result.info.get("cicp") == (bytes((9, 16, 0, 1)) if b"cICP" in data else None)
    assert [round(value) for value in result.info["dpi"]] == [300, 150]
    assert result.info["Author"] == "Ärger"
    assert result.info["xmp"] == b'<a b="1"/>'
    again = round_trip(result)
    assert isinstance(again, Image.Image)
    assert (again.size, again.info) == (result.size, result.info)


@pytest.mark.parametrize("extension", ["jpg", "webp", "tif"])
def test_xmp_of_other_files_is_kept(tmp_path, extension):
    options = {"exif": Image.Exif()}
    options["exif"][700] = b"<x/>"
    content = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    jpeg = {"extra": b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content}
    Image.new("RGB", (6, 4)).save(
        tmp_path / f"a.{extension}",
        **cast("Any", {"jpg": jpeg, "webp": {"xmp": b"<x/>"}, "tif": options}[extension]),
    )
    with Image.open(tmp_path / f"a.{extension}") as image:
        if "xmp" not in image.info:
            pytest.skip("this Pillow does not read it")
    assert decode_image(tmp_path / f"a.{extension}").format.metadata["xmp"].rstrip(b"\0") == b"<x/>"


@pytest.mark.parametrize("dpi", [(0, 0), (1e9, 72), ("a", 72), 72, None, (float("nan"), 72)])
def test_a_resolution_that_is_none_is_left_out(dpi):
    image = Image.new("RGB", (6, 4))
    image.info["dpi"] = dpi
    assert "dpi" not in decode_image(image).format.metadata


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_estimated(tmp_path, quality: int):
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name, quality=quality)
    assert decode_image(tmp_path / "a.jpg").format.jpeg_quality == pytest.approx(quality, abs=1)
    assert decode_image(tmp_path / "a.png").format.jpeg_quality is None


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_loaded_frames_keep_what_was_done_to_them(tmp_path, ending):
    first, second = (Image.fromarray(pixels(8, 8, seed=seed)).convert("P") for seed in (0, 1))
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    with Image.open(tmp_path / f"a.{ending}") as image:
        image.thumbnail((4, 4))
    small = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(cast("Image.Image", round_trip(image)).convert("RGB")), small)
    assert np.array_equal(np.asarray(image.convert("RGB")), small)
