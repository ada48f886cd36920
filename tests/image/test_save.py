"""``save_image``: formats, metadata, and that a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.image import decode_image, encode_image, save_image


def picture(channels=3):
    array = np.random.default_rng(0).integers(0, 256, (16, 24, channels), dtype=np.uint8)
    return Image.fromarray(array.squeeze())


def with_metadata(image):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    image.info.update(exif=exif.tobytes(), icc_profile=b"profile", comment=b"secret")
    return image


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.bmp", "ä – 写真.png"])
def test_lossless_formats_give_the_pixels_back(tmp_path, name):
    save_image(picture(), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.tobytes() == picture().tobytes()
    assert os.listdir(tmp_path) == [name]


def test_png_is_fast_and_no_larger(tmp_path):
    """Of an enlarged photograph: the default of Pillow takes four times as long for the same size."""
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 60) for _ in range(3)])
    large = noise.resize((256, 256), Image.Resampling.BICUBIC)
    save_image(large, tmp_path / "ours.png")
    large.save(tmp_path / "default.png")
    sizes = [(tmp_path / name).stat().st_size for name in ("ours.png", "default.png")]
    assert sizes[0] < 1.05 * sizes[1]
    assert sizes[0] != sizes[1]


def test_paths_may_be_strings(tmp_path):
    save_image(picture(), str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_quality_matters(tmp_path, extension):
    sizes = []
    for quality in (30, 95):
        save_image(picture(), tmp_path / f"a.{extension}", quality=quality)
        sizes.append((tmp_path / f"a.{extension}").stat().st_size)
    assert sizes[0] < sizes[1]


def test_jpeg_keeps_full_colour_resolution(tmp_path):
    save_image(picture(), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        layers = image.layer  # pyright: ignore[reportAttributeAccessIssue]
        assert {layer[1:3] for layer in layers} == {(1, 1)}


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_metadata_is_kept(tmp_path, extension):
    save_image(with_metadata(picture()), tmp_path / f"a.{extension}")
    with Image.open(tmp_path / f"a.{extension}") as image:
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["icc_profile"] == b"profile"


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_metadata_is_stripped_when_asked(tmp_path, extension):
    image = with_metadata(picture())
    save_image(image, tmp_path / f"a.{extension}", strip_metadata=True)
    with Image.open(tmp_path / f"a.{extension}") as saved:
        assert 0x010F not in saved.getexif()
        assert not {"icc_profile", "comment", "exif"} & set(saved.info)
    assert b"secret" not in (tmp_path / f"a.{extension}").read_bytes()
    assert image.info["icc_profile"] == b"profile"


def test_metadata_of_a_tiff_source_is_stripped_too(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture().save(tmp_path / "in.tif", exif=exif)
    with Image.open(tmp_path / "in.tif") as image:
        save_image(image, tmp_path / "out.tif", strip_metadata=True)
    assert b"Maker" not in (tmp_path / "out.tif").read_bytes()


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
def test_a_photo_goes_through_upright_with_its_metadata(tmp_path, extension):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    picture().save(tmp_path / "in.jpg", exif=exif, icc_profile=b"profile")
    decoded = decode_image(tmp_path / "in.jpg")
    result = encode_image(decoded.rgb, decoded.alpha, decoded.format)
    assert isinstance(result, Image.Image)
    save_image(result, tmp_path / f"out.{extension}")
    with Image.open(tmp_path / f"out.{extension}") as image:
        image.load()
        assert image.size == (16, 24)
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "Maker"
        assert image.info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    ("mode", "extension"), [("I;16", "png"), ("I", "png"), ("I;16", "tif"), ("I", "tif")]
)
def test_16_bits_are_kept(tmp_path, mode, extension):
    array = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image = with_metadata(Image.fromarray(array if mode == "I;16" else array.astype(np.int32)))
    assert image.mode == mode
    save_image(image, tmp_path / f"a.{extension}")
    with Image.open(tmp_path / f"a.{extension}") as saved:
        np.testing.assert_array_equal(np.asarray(saved), array)
        assert saved.info["icc_profile"] == b"profile"


def test_floats_go_to_tiff(tmp_path):
    array = np.random.default_rng(0).random((4, 6), dtype=np.float32)
    save_image(Image.fromarray(array), tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
    (tmp_path / "ordinary").touch()
    save_image(picture(), tmp_path / "a.png")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "a.png")}
    assert len(modes) == 1


# Refusals


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_out_of_range_is_refused(tmp_path, quality):
    with pytest.raises(ArgumentError, match=r"quality must be in 1\.\.100"):
        save_image(picture(), tmp_path / "a.jpg", quality=quality)


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.tar.gz", ".png", "a.psd"])
def test_unknown_extensions_are_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"cannot tell an image format from the extension.*use \.png"):
        save_image(picture(), tmp_path / name)


def test_a_folder_of_that_name_is_refused(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="there is a folder of this name"):
        save_image(picture(), tmp_path / "a.png")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"there is no folder .*; create it"):
        save_image(picture(), tmp_path / "no" / "a.png")


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("extension", ["jpg", "jpeg", "bmp"])
def test_transparency_that_would_be_lost_is_refused(tmp_path, channels, extension):
    with pytest.raises(OutputError, match=r"has transparency .* cannot hold; use \.png or \.webp"):
        save_image(picture(channels), tmp_path / f"a.{extension}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("mode", ["I;16", "I"])
@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_16_bits_that_would_be_lost_are_refused(tmp_path, mode, extension):
    with pytest.raises(OutputError, match=r"has 16 bits a sample .* cannot hold; use \.png or \.tif"):
        save_image(Image.new(mode, (4, 4)), tmp_path / f"a.{extension}")


def test_floats_that_would_be_lost_are_refused(tmp_path):
    with pytest.raises(OutputError, match=r"has float samples .* cannot hold; use \.tif"):
        save_image(Image.new("F", (4, 4)), tmp_path / "a.png")


def test_mode_i_beyond_16_bits_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"mode 'I' must hold values in 0\.\.65535, got 70000 to 70000"):
        save_image(Image.new("I", (4, 4), 70000), tmp_path / "a.png")


def test_what_an_encoder_refuses_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"WEBP cannot hold a 16384 x 1 image of mode RGB .*use \.png"):
        save_image(Image.new("RGB", (16384, 1)), tmp_path / "a.webp")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
def test_what_the_system_refuses_is_named_and_nothing_is_left(tmp_path, monkeypatch, code):
    (tmp_path / "a.png").write_bytes(b"before")

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=f"{os.strerror(code)}; look at the folder's permissions and free"):
        save_image(picture(), tmp_path / "a.png")
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unwritable_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        save_image(picture(), tmp_path / "a.png")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch, error):
    def interrupt(self, file, **kwargs):
        file.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(error):
        save_image(picture(), tmp_path / "a.png")
    assert not os.listdir(tmp_path)
