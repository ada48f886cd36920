"""Unpack the freely licensed photographs of Debian's package gcompris-qt-data, with their authors.

GCompris keeps its pictures in Qt resource files (``.rcc``), and beside them README files that name author and
licence of each. Get them (no root needed), then unpack::

    apt-get download gcompris-qt-data && dpkg -x gcompris-qt-data_*.deb gcompris
    python examples/unpack_gcompris_photos.py gcompris/usr/share/gcompris-qt/rcc photos/gcompris

Only photographs under CC0, CC-BY, CC-BY-SA or in the public domain are written; ``licences.json`` beside
them says whose each is.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ACTIVITIES = (
    "clickgame",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
FREE = re.compile(r"CC0|CC-BY|public domain", re.IGNORECASE)
MINIMUM_SIDE = 500
_FOLDER, _ZLIB = 2, 1


def resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a Qt resource file: big-endian, a tree of nodes, a table of names, the data.

    A node is its name's offset, flags, then either (child count, first child) or (locale, data offset), and a
    time stamp; a name is its length, a hash and UTF-16; content is its length and bytes, perhaps compressed.
    """
    blob = path.read_bytes()
    if blob[:4] != b"qres":
        raise SystemExit(f"{path} is not a Qt resource file")
    version, tree, data, names = struct.unpack(">4I", blob[4:20])
    node_size = 14 if version == 1 else 22

    def walk(index: int, place: str) -> Iterator[tuple[str, bytes]]:
        start = tree + index * node_size
        name_at, flags, first, second = struct.unpack(">IHII", blob[start : start + 14])
        if index:
            (length,) = struct.unpack(">H", blob[names + name_at : names + name_at + 2])
            text = blob[names + name_at + 6 : names + name_at + 6 + 2 * length]
            place = f"{place}/{text.decode('utf-16-be')}"
        if flags & _FOLDER:
            for child in range(second, second + first):
                yield from walk(child, place)
        else:
            (size,) = struct.unpack(">I", blob[data + second : data + second + 4])
            content = blob[data + second + 4 : data + second + 4 + size]
            yield place, zlib.decompress(content[4:]) if flags & _ZLIB else content

    yield from walk(0, "")


def read_licences(place: str, text: str) -> dict[str, str]:
    """Files named by a README to "licence, author"; paragraphs of ``Key: value`` lines and file names."""
    folder = place.rsplit("/", 1)[0]
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        author = re.search(r"^Copyright: *(.+)$", paragraph, re.MULTILINE)
        licence = re.search(r"^License: *(.+)$", paragraph, re.MULTILINE)
        if author and licence:
            lines = [line for line in paragraph.splitlines() if not line.startswith(("Source:", "Comment"))]
            for file in re.findall(r"\S+\.webp", "\n".join(lines)):
                found[f"{folder}/{file}"] = f"{licence[1].strip()}, {author[1].strip()}"
    return found


def main() -> None:
    """Read the arguments, unpack, say how many."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rcc", type=Path, help="folder of .rcc files")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for activity in ACTIVITIES:
        files = dict(resources(arguments.rcc / f"{activity}.rcc"))
        licences: dict[str, str] = {}
        for place, content in files.items():
            if place.endswith("/README"):
                licences |= read_licences(place, content.decode("utf-8"))
        for place, licence in sorted(licences.items()):
            if place not in files or not FREE.search(licence):
                continue
            with Image.open(io.BytesIO(files[place])) as image:
                photo = image.mode == "RGB" and min(image.size) >= MINIMUM_SIDE
            if photo:
                name = f"{activity}_{place.rsplit('/', 1)[1]}"
                (arguments.out / name).write_bytes(files[place])
                written[name] = licence
    (arguments.out / "licences.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(written)} photographs in {arguments.out}")


if __name__ == "__main__":
    main()
