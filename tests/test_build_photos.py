"""The table of training photographs is complete, and the script that builds crops from it does so."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import runpy
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sam_diffsr.data import CropStore
from sam_diffsr.errors import OutputError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word, and of short.png less than it says."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the file, or its beginning."""
        outputfile.write(source.read(100 if self.path.endswith("short.png") else -1))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_table_of_photos_names_its_licences():
    rows = runpy.run_path(str(EXAMPLES / "build_photos.py"))["read_table"]()
    assert len(rows) == 816
    assert sum(row["split"] == "held-back" for row in rows) == 24
    assert {row["split"] for row in rows} == {"train", "held-back"}
    assert all(row["licence"] and row["licence_stated_in"] and row["repository"] for row in rows)
    assert all(re.search(r"CC-BY|CC0|public domain", row["licence"]) for row in rows)
    assert len({row["file"] for row in rows}) == len(rows)


def qt_resource(files: dict[str, bytes]) -> bytes:
    """A Qt resource file with all files in its root, the first of them compressed."""
    names, data, nodes = b"", b"", struct.pack(">IHIIQ", 0, 2, len(files), 1, 0)
    for index, (name, content) in enumerate(files.items()):
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if index == 0 else content
        flags = 1 if index == 0 else 0
        nodes += struct.pack(">IHIIQ", len(names), flags, 0, len(data), 0)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        data += struct.pack(">I", len(stored)) + stored
    tree, at = 20, 20 + len(nodes)
    return b"qres" + struct.pack(">4I", 2, tree, at, at + len(data)) + nodes + data + names


def test_photos_are_fetched_unpacked_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("skimage")
    program = runpy.run_path(str(EXAMPLES / "build_photos.py"))
    names = program["main"].__globals__
    cat = Image.open(EXAMPLES / "chelsea.png").convert("RGB")

    # a site with one photograph to train on, one to hold back, and one that is missing
    site = tmp_path / "site" / "someone" / "photos" / "abc123" / "media"
    site.mkdir(parents=True)
    cat.resize((400, 300)).save(site / "a cat.png")
    cat.resize((320, 240)).save(site / "held.png")
    content = (site / "held.png").read_bytes()
    (site / "torn.png").write_bytes(content[:9000])
    (site / "short.png").write_bytes(content)
    columns = ["file", "repository", "commit", "path", "reduction", "author", "licence", "split"]
    table = tmp_path / "photos.csv"
    table.write_text(
        "\n".join(
            [
                ",".join(columns),
                "cat.webp,someone/photos,abc123,media/a cat.png,2,A,CC0,train",
                "held.jpg,someone/photos,abc123,media/held.png,1,B,CC0,held-back",
                "torn.jpg,someone/photos,abc123,media/torn.png,1,C,CC0,train",
                "short.jpg,someone/photos,abc123,media/short.png,1,C,CC0,train",
                "gone.jpg,someone/photos,abc123,media/gone.png,1,C,CC0,train",
            ]
        )
    )
    monkeypatch.setitem(names, "read_table", lambda: program["read_table"](table))
    monkeypatch.setitem(names, "CROP_SIZE", 64)

    def build(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["build_photos.py", *arguments])
        program["main"]()

    photos = tmp_path / "photos"
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit, match="3 photographs could not be fetched; run it again"):
            build("fetch", str(photos), "--site", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert Image.open(photos / "cat.png").size == (200, 150)
    said = capsys.readouterr().err
    for message in ("gone.png: HTTP Error 404", "short.png: IncompleteRead", "torn.png: the pixels of the"):
        assert message in said

    # packages: one plain file, and one in a Qt resource whose README states a free licence
    packages = tmp_path / "debian"
    (packages / names["GCOMPRIS"]).mkdir(parents=True)
    cat.save(packages / "plain.jpg")
    monkeypatch.setitem(names, "DEBIAN", {"plain.jpg": "CC-BY-4.0, D"})
    monkeypatch.setitem(names, "ACTIVITIES", ("farm",))
    picture = io.BytesIO()
    cat.resize((800, 600)).save(picture, "WEBP")
    readme = b"cow.webp\nCopyright: E\nLicense: CC-BY-SA-4.0\n\nnot.webp\nCopyright: F\nLicense: GPL-3\n"
    content = {"README": readme, "cow.webp": picture.getvalue(), "not.webp": picture.getvalue()}
    (packages / names["GCOMPRIS"] / "farm.rcc").write_bytes(qt_resource(content))
    build("debian", str(packages), str(photos))
    assert json.loads((photos / "licences.json").read_text()) == {
        "plain.png": "CC-BY-4.0, D",
        "farm_cow.png": "CC-BY-SA-4.0, E",
    }
    assert Image.open(photos / "farm_cow.png").size == (500, 375)

    build("cut", str(photos), str(tmp_path / "crops"), "--held", str(tmp_path / "held"))
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["held.png"]
    store = CropStore(tmp_path / "crops")
    licences = {source["file"]: source["licence"] for source in store.manifest["sources"]}
    assert licences == {
        "cat.png": "CC0, A",
        "plain.png": "CC-BY-4.0, D",
        "farm_cow.png": "CC-BY-SA-4.0, E",
    }
    assert "left out, because it is not in" in capsys.readouterr().err

    # other crops in the same place are replaced only when asked
    monkeypatch.setitem(names, "CROP_SIZE", 48)
    with pytest.raises(OutputError, match="replace them with --overwrite"):
        build("cut", str(photos), str(tmp_path / "crops"))
    build("cut", str(photos), str(tmp_path / "crops"), "--overwrite")
    assert CropStore(tmp_path / "crops").crop_size == 48
