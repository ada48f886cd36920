"""A file is there whole or not at all."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_file, atomic_path, open_folder, printable, writing


def test_replaces_the_target_when_the_block_ends(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")

    def cut_off():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_cannot_be_replaced_is_an_oserror(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="folder"), atomic_path(target) as temporary:
        temporary.write_text("text")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_is_written_whole(tmp_path, monkeypatch, nameless):
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    for content in (b"first", b"second"):
        with atomic_file(tmp_path / "a.bin") as file:
            file.write(content)
            if nameless and sys.platform == "linux":
                assert [path.name for path in tmp_path.iterdir()] in ([], ["a.bin"])
        assert (tmp_path / "a.bin").read_bytes() == content

    def cut_off():
        with atomic_file(tmp_path / "a.bin") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert (tmp_path / "a.bin").read_bytes() == b"second"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="links and permissions are POSIX's")
@pytest.mark.parametrize("writer", ["path", "file"])
def test_links_and_permissions_stay(tmp_path, writer):
    (tmp_path / "real").touch(mode=0o640)
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    if writer == "path":
        with atomic_path(tmp_path / "link") as temporary:
            temporary.write_text("new")
    else:
        with atomic_file(tmp_path / "link") as file:
            file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_any_name_can_be_printed():
    assert printable("写真.png") == "写真.png"
    assert printable(os.fsdecode(b"a.png")) == "a.png"
    assert printable("caf\udce9.png") == "caf\\udce9.png"
    assert printable("a\nb\x1b[31m.png") == r"a\nb\x1b[31m.png"


def test_an_oserror_becomes_one_sentence(tmp_path):
    path = tmp_path / "no" / "a.json"
    with (
        pytest.raises(OutputError, match=r"^cannot write the table '.*a\.json': No such file .*; make room$"),
        writing("the table", path, advice="make room"),
    ):
        path.write_text("{}")
    with pytest.raises(OutputError, match=r"^once$"), writing("the table", path):
        raise OutputError("once")
    with pytest.raises(ValueError, match="other"), writing("the table", path):
        raise ValueError("other")


def test_a_folder_is_made_and_written_into(tmp_path):
    with open_folder(tmp_path / "a" / "b") as file:
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [os.path.basename(file.name)]
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write into the folder '.*x': "):
        open_folder(tmp_path / "file" / "x")
