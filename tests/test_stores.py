"""Files by URI: as paths, and read, listed and written in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_diffsr.errors import ArgumentError, ImageError, ImageNotFoundError, OutputError
from sam_diffsr.stores import as_path, as_uri, check_writable, is_remote, list_files, read_file, write_file

pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    "uri", ["s3://bucket/folder/a b.png", "gs://bucket", "hdfs:///x/y", "local:///tmp/x"]
)
def test_a_uri_is_a_path_and_back(uri: str) -> None:
    assert is_remote(as_path(uri))
    assert as_uri(as_path(uri)) == uri
    assert as_uri(as_path(uri) / "z.png") == f"{uri}/z.png"


@pytest.mark.parametrize("path", ["photos", "/photos/a.png", ".", "", "a:b/c", "C:/x"])
def test_other_paths_stay(path: str) -> None:
    assert not is_remote(as_path(path))
    assert as_uri(as_path(path)) == str(Path(path))


def test_a_file_uri_is_a_local_path(tmp_path: Path) -> None:
    uri = (tmp_path / "a b").as_uri()
    assert as_path(uri) == as_path(uri.replace("file://", "FILE://localhost")) == tmp_path / "a b"
    with pytest.raises(ArgumentError, match=r"'file://large/x' names the machine 'large'; .* three slashes"):
        as_path("file://large/x")


def test_a_scheme_in_capitals_is_the_same_scheme() -> None:
    assert as_path("S3://Bucket/x") == as_path("s3://Bucket/x")


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "s3://bucket/x?endpoint_override=localhost"])
def test_keys_and_options_are_not_part_of_a_uri(uri: str) -> None:
    with pytest.raises(ArgumentError, match="give them by the environment variables of the store") as error:
        as_path(uri)
    assert "secret" not in str(error.value)


def test_an_unknown_store() -> None:
    with pytest.raises(ArgumentError, match="cannot open the store nowhere://x/"):
        list_files(as_path("nowhere://x/y"))


def test_read_list_and_write(tmp_path: Path) -> None:
    folder = as_path(f"local://{tmp_path}/new")
    assert list_files(folder) == []
    check_writable(folder)
    for name in ("b.png", "sub/a.png", ".hidden", ".git/x.png", "a..b.png"):
        write_file(folder / name, name.encode())
    write_file(folder / "b.png", b"again")
    assert list_files(folder) == [folder / "a..b.png", folder / "b.png", folder / "sub" / "a.png"]
    assert list_files(folder, recursive=False) == [folder / "a..b.png", folder / "b.png"]
    assert list_files(folder / "b.png") == [folder / "b.png"]
    assert read_file(folder / "b.png") == b"again"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        ".git",
        ".hidden",
        "a..b.png",
        "b.png",
        "sub",
    ]
    with pytest.raises(ImageNotFoundError, match="no such file: 'local:///"):
        read_file(folder / "c.png")
    with pytest.raises(ImageError, match="cannot read 'local:///"):
        read_file(folder)
    with pytest.raises(OutputError, match="cannot write 'local:///"):
        write_file(folder / "b.png" / "c.png", b"")
