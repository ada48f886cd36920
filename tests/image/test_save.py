"""``save_image``: formats, metadata, and that a file is written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from typing import Any, cast

import numpy as np
import PIL
import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, ImageError, OutputError
from sam_diffsr.image import ImageFormat, check_output, decode_image, encode_image, save_image
from sam_diffsr.image.formats import _png_takes_cicp as png_takes_cicp
from sam_diffsr.image.formats import output_format


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


def full(image):
    """Every entry of metadata that is kept somewhere."""
    image.info.update(
        exif=decode_exif("Maker"),
        icc_profile=b"profile",
        dpi=(300, 150),
        xmp=b"<x/>",
        Author="Ärger",
        Titel="写真",
    )
    return image


def decode_exif(maker):
    exif = Image.Exif()
    exif[0x010F] = maker
    return exif.tobytes()


@pytest.mark.parametrize(
    ("extension", "kept"),
    [
        ("png", {"exif", "icc_profile", "dpi", "xmp", "Author", "Titel"}),
        ("jpg", {"exif", "icc_profile", "dpi", "xmp"}),
        ("webp", {"exif", "icc_profile", "xmp"}),
        ("tif", {"exif", "icc_profile", "dpi", "xmp"}),
        ("avif", {"exif", "icc_profile", "xmp"}),
    ],
)
def test_each_format_keeps_what_it_has_a_place_for(tmp_path, extension, kept):
    path = tmp_path / f"a.{extension}"
    if extension in ("jpg", "tif") and int(PIL.__version__.split(".")[0]) < 11:
        kept = kept - {"xmp"}  # written, but older Pillow does not read it
    if output_format(path.suffix) is None:
        pytest.skip("this Pillow does not write it")
    for strip in (False, True):
        save_image(full(picture()), path, strip_metadata=strip)
        content = decode_image(path).format.metadata
        assert set(content) & {"exif", "icc_profile", "dpi", "xmp", "Author", "Titel"} == (
            set() if strip else kept
        ) | ({"dpi", "exif"} & set(content) if strip and extension == "tif" else set())
        assert b"Maker" not in path.read_bytes() or not strip
    save_image(full(picture()), path)
    content = decode_image(path).format.metadata
    assert [round(value) for value in content.get("dpi", (300, 150))] == [300, 150]
    assert (content.get("Author", "Ärger"), content.get("Titel", "写真")) == ("Ärger", "写真")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_exif_as_an_object_and_xmp_as_text_are_written_as_their_bytes(tmp_path, extension):
    image = full(picture())
    save_image(image, tmp_path / f"bytes.{extension}")
    exif = Image.Exif()
    exif.load(image.info["exif"])
    image.info |= {"exif": exif, "xmp": "<x/>"}
    save_image(image, tmp_path / f"objects.{extension}")
    assert (tmp_path / f"objects.{extension}").read_bytes() == (tmp_path / f"bytes.{extension}").read_bytes()


def test_exif_and_xmp_that_cannot_be_written(tmp_path):
    image, exif = picture(), Image.Exif()
    exif[0x0112] = "upside down"
    for entry in ({"exif": exif}, {"xmp": "\ud800"}):
        image.info = entry  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(OutputError, match=r"its EXIF or XMP cannot be written .*; leave it out"):
            save_image(image, tmp_path / "a.png")
        save_image(image, tmp_path / "a.png", strip_metadata=True)
        (tmp_path / "a.png").unlink()
    assert not list(tmp_path.iterdir())


def test_captions_go_from_jpeg_to_jpeg(tmp_path):
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x78\0\x03cat"
    picture().save(tmp_path / "a.jpg", extra=b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block)
    decoded = decode_image(tmp_path / "a.jpg")
    result = encode_image(decoded.rgb, decoded.alpha, decoded.format)
    assert isinstance(result, Image.Image)
    for strip in (False, True):
        save_image(result, tmp_path / "b.jpg", strip_metadata=strip)
        assert (b"cat" in (tmp_path / "b.jpg").read_bytes()) == (not strip)
        with Image.open(tmp_path / "b.jpg") as image:
            assert ("photoshop" in image.info) == (not strip)


def test_colour_chunks_go_from_png_to_png(tmp_path):
    image = picture()
    image.info.update(
        gamma=1.0,
        chromaticity=(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
        cicp=bytes((9, 16, 0, 1)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not png_takes_cicp() else "error")
        save_image(image, tmp_path / "a.png")
    kept = decode_image(tmp_path / "a.png").format.metadata
    assert (kept["gamma"], kept["chromaticity"][2]) == (1.0, 0.68)
    assert kept.get("cicp", bytes((9, 16, 0, 1))) == bytes((9, 16, 0, 1))
    assert ("cicp" in kept) == png_takes_cicp()
    save_image(image, tmp_path / "b.png", strip_metadata=True)
    assert not decode_image(tmp_path / "b.png").format.metadata


@pytest.mark.parametrize(
    "info", [{"gamma": 1.0}, {"chromaticity": (0.3,) * 8}, {"cicp": bytes((9, 16, 0, 1))}]
)
def test_colour_chunks_that_a_format_cannot_hold_are_warned_of(tmp_path, info):
    image = picture()
    image.info.update(info)
    with pytest.warns(UserWarning, match=r"no place in JPEG for the gAMA, cHRM or cICP chunk .* use \.png"):
        save_image(image, tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "info", [{"gamma": 0.45455}, {"srgb": 0, "gamma": 0.45455}, {"cicp": bytes((1, 13, 0, 1))}]
)
def test_colours_that_are_srgb_anyway_are_not_warned_of(tmp_path, info):
    image = picture()
    image.info.update(info)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_image(image, tmp_path / "a.jpg")


def test_a_profile_that_a_format_cannot_hold_is_warned_of(tmp_path):
    with pytest.warns(
        UserWarning, match="BMP has no place for the EXIF block and the colour profile of .*use .png"
    ):
        save_image(with_metadata(picture()), tmp_path / "a.bmp")


@pytest.mark.parametrize("name", ["a.avif", "a.jp2", "a.jfif", "a.jpe", "a.webp", "a.tiff"])
def test_further_formats(tmp_path, name):
    if output_format(f".{name.split('.')[1]}") is None:
        pytest.skip("this Pillow does not write it")
    smooth = picture().resize((96, 64), Image.Resampling.BICUBIC)
    save_image(smooth, tmp_path / name)
    difference = np.asarray(Image.open(tmp_path / name)).astype(int) - np.asarray(smooth)
    assert np.abs(difference).mean() < 10


def test_lossless_webp(tmp_path):
    for extension in ("webp", "png", "tif", "jp2"):
        save_image(picture(4), tmp_path / f"a.{extension}", quality="lossless")
        with Image.open(tmp_path / f"a.{extension}") as image:
            assert image.tobytes() == picture(4).tobytes()
    for extension in ("jpg", "jfif"):
        with pytest.raises(ArgumentError, match=r"JPEG is never lossless; use \.png"):
            save_image(picture(), tmp_path / f"b.{extension}", quality="lossless")


def test_tiff_is_compressed(tmp_path):
    flat = Image.new("RGB", (64, 64))
    save_image(flat, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").stat().st_size < 64 * 64
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05"}
    flat.info["exif"] = exif.tobytes()
    save_image(flat, tmp_path / "b.tif")
    with Image.open(tmp_path / "b.tif") as image:
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"


def test_into_an_open_file(tmp_path):
    file = io.BytesIO()
    save_image(picture(), file)
    assert Image.open(file).format == "PNG"
    file = io.BytesIO()
    save_image(picture(), file, ending=".jpg", quality=50)
    assert Image.open(file).format == "JPEG"
    (tmp_path / "a.png").touch()
    with (
        (tmp_path / "a.png").open("rb") as closed,
        pytest.raises(OutputError, match="cannot write the image"),
    ):
        save_image(picture(), closed)


@pytest.mark.skipif(os.name != "posix", reason="links and permissions are POSIX's")
def test_a_link_stays_a_link_and_a_private_file_private(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "real.png").touch(mode=0o600)
    (tmp_path / "link.png").symlink_to("store/real.png")
    save_image(picture(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert Image.open(tmp_path / "store" / "real.png").size == (24, 16)
    assert stat.S_IMODE((tmp_path / "store" / "real.png").stat().st_mode) == 0o600
    (tmp_path / "dangling.png").symlink_to("store/new.png")
    save_image(picture(), tmp_path / "dangling.png")
    assert (tmp_path / "store" / "new.png").is_file()
    assert sorted(os.listdir(tmp_path / "store")) == ["new.png", "real.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_private_file_is_private_while_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch(mode=0o600)
    seen: list[int] = []
    monkeypatch.setattr(
        Image.Image,
        "save",
        lambda self, file, **_: seen.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode)),
    )
    save_image(picture(), tmp_path / "a.png")
    assert seen == [0o600]


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


@pytest.mark.parametrize("quality", [0, 101, -5, 9.5, "high", True])
def test_quality_out_of_range_is_refused(tmp_path, quality):
    with pytest.raises(ArgumentError, match=r"quality must be in 1\.\.100"):
        save_image(picture(), tmp_path / "a.jpg", quality=quality)


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.tar.gz", ".png", "a.psd"])
def test_unknown_extensions_are_refused(tmp_path, name):
    with pytest.raises(
        OutputError, match=r"is not the ending of a format that results are written in; use \.png"
    ):
        save_image(picture(), tmp_path / name)


def test_a_target_that_is_none_is_refused():
    with pytest.raises(OutputError, match="save_image writes to a path or an open file, got None"):
        save_image(Image.new("RGB", (4, 4)), None)  # pyright: ignore[reportArgumentType]


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
    with pytest.raises(OutputError, match=r"WEBP cannot hold 16384 x 1 pixels, only 16383 a side; use \.png"):
        save_image(Image.new("RGB", (16384, 1)), tmp_path / "a.webp")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
def test_what_the_system_refuses_is_named_and_nothing_is_left(tmp_path, monkeypatch, code):
    (tmp_path / "a.png").write_bytes(b"before")

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=f"{os.strerror(code)}; check the folder's permissions and free"):
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


# What is refused before the work


def form(channels: Any = 3, sample_type: Any = "uint8", **metadata):
    return ImageFormat(container="pil", channels=channels, sample_type=sample_type, metadata=metadata)


@pytest.mark.parametrize(
    ("name", "source", "size", "message"),
    [
        ("a.webp", form(), (16384, 4), r"WEBP cannot hold 16384 x 4 pixels, only 16383 a side; use \.png"),
        ("a.jpg", form(), (4, 65501), r"JPEG cannot hold 4 x 65501 pixels, only 65500 a side"),
        ("a.avif", form(), (4, 32769), r"AVIF cannot hold|not the ending of a format"),
        (
            "a.jpg",
            form(1, "uint16"),
            (4, 4),
            r"has 16 bits a sample \(mode I;16\), which JPEG cannot hold; use \.png",
        ),
        ("a.jpg", form(4), (4, 4), r"has transparency .*, which JPEG cannot hold"),
        ("a.png", form(1, "float32"), (4, 4), r"has float samples .* use \.tif"),
        (
            "a.jpg",
            form(exif=b"Exif\0\0" + bytes(70000)),
            (4, 4),
            r"cannot hold 70006 bytes of EXIF, .*--strip-metadata",
        ),
        ("a.jpg", form(xmp=bytes(70000)), (4, 4), r"cannot hold 70000 bytes of XMP, only 64 KB"),
        ("a.gif", form(), (4, 4), r"GIF has 256 colours and is written for animations only"),
        ("a", form(), (4, 4), r"'no ending' is not the ending of a format"),
        ("file/a.png", form(), (4, 4), r"cannot write .*a\.png': .*file' is not a folder"),
        ("n" * 252 + ".png", form(), (4, 4), r"its name is too long"),
        ("a\0b.png", form(), (4, 4), r"null"),
        ("folder.png", form(), (4, 4), r"there is a folder of this name"),
    ],
)
def test_refused_before_the_work(tmp_path, name, source, size, message, monkeypatch):
    monkeypatch.setattr("sam_diffsr.image.formats.exif_for_size", lambda exif, **_: exif)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name, source, width=size[0], height=size[1])
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_stripped_metadata_cannot_be_too_long(tmp_path):
    source = form(xmp=bytes(70000))
    check_output(tmp_path / "new" / "a.jpg", source, width=4, height=4, strip_metadata=True)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_places_where_nothing_may_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="no permission to write into"):
        check_output(tmp_path / "new" / "a.png", form(), width=4, height=4)
    monkeypatch.undo()
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (("loop.png", "choose another place"), ("pipe.png", "there is a device or pipe")):
        with pytest.raises(OutputError, match=message):
            check_output(tmp_path / name, form(), width=4, height=4)


def test_only_pil_images_are_saved(tmp_path):
    with pytest.raises(ImageError, match=r"takes a PIL image, got ndarray; use Image\.fromarray"):
        save_image(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.png")  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".png", ".tif", ".jp2", ".jpg", ".webp"])
def test_into_a_pipe(ending):
    class Pipe(io.RawIOBase):
        held = b""

        def write(self, data: Any) -> int:
            self.held += bytes(data)
            return len(data)

    pipe = Pipe()
    save_image(Image.new("RGB", (8, 6), (200, 100, 0)), cast("Any", pipe), ending=ending)
    assert Image.open(io.BytesIO(pipe.held)).size == (8, 6)


@pytest.mark.parametrize("key", ["frames", "gamma", "cicp", "dpi"])
@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_text_with_the_name_of_another_entry_is_left_out(tmp_path, key, ending):
    image = Image.new("RGB", (4, 4))
    image.info[key] = "2"
    save_image(image, tmp_path / f"a{ending}")
    assert Image.open(tmp_path / f"a{ending}").info.get(key) != "2"
    assert image.info[key] == "2"
