"""A file is there whole or not at all."""

from __future__ import annotations

import pytest

from sam_diffsr.files import atomic_path


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
