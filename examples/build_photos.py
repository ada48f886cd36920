r"""Build the crops that the bundled models were trained on, from freely licensed photographs.

There are two sets. ``photos.csv`` beside this script lists 816 photographs of public repositories: where each
is, how far it is to be reduced, author and licence. They are fetched into a folder, once::

    python examples/build_photos.py fetch photos

131 more come with Debian packages (no root needed; any machine with these packages in its sources)::

    mkdir -p debian && cd debian
    for package in lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 lebiniou-data gcompris-qt-data; do
        apt-get download $package && dpkg -x ${package}_*.deb $package
    done && cd ..
    python examples/build_photos.py debian debian photos

Then everything in the folder is cut into crops, except for the photographs that ``photos.csv`` holds back::

    python examples/build_photos.py cut photos data/crops --held data/held
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import re
import struct
import sys
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from sam_diffsr.data.cut import reduce_image
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.errors import ImageError
from sam_diffsr.files import atomic_path
from sam_diffsr.image import decode_image
from sam_diffsr.masks.segments import GraphMaskGenerator

TABLE = Path(__file__).with_name("photos.csv")
SITE = "https://raw.githubusercontent.com"
LICENCES = "licences.json"
"""File in the folder of photographs: licence and author of each that is not in the table."""

REDUCTIONS = (1.0, 1.6)
SEGMENTER = GraphMaskGenerator(scale=300.0, sigma=0.8, min_size=100, longest_side=512)
CROP_SIZE = 192
MIN_GRADIENT = 2.5
HELD_SIDE = 256

LOMIRI = "lomiri-wallpapers-16.04/usr/share/backgrounds"
FOCAL = "lomiri-wallpapers-20.04/usr/share/backgrounds"
OPALE = "lebiniou-data/usr/share/lebiniou/images/opale95"
GCOMPRIS = "gcompris-qt-data/usr/share/gcompris-qt/rcc"

DEBIAN: dict[str, str] = {
    f"{LOMIRI}/Bridge_by_Sander_Klootwijk.jpg": "CC-BY-SA-4.0, Sander Klootwijk",
    f"{LOMIRI}/Dragonfly_by_Bolly.jpg": "CC-BY-SA-4.0, Bolly",
    f"{LOMIRI}/Picture_1A_by_freespace.jpg": "CC-BY-4.0, Trevor 'Freespace'",
    f"{LOMIRI}/Wine_by_Jakkub_Mede.jpg": "CC-BY-4.0, Jakub Mede",
    f"{LOMIRI}/free_by_Peter_Nerlich.jpg": "CC-BY-SA-4.0, Peter Nerlich",
    f"{LOMIRI}/friends_by_Aitzol_Berasategi.jpg": "CC-BY-4.0, Aitzol Berasategi",
    f"{LOMIRI}/life_by_Aitzol_Berasategi.jpg": "CC-BY-4.0, Aitzol Berasategi",
    f"{LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg": "CC-BY-4.0, Aitzol Berasategi",
    f"{LOMIRI}/seeding_by_Clements_Engelhardt.jpg": "CC0-1.0, Clemens Engelhardt",
    f"{LOMIRI}/sunset_by_Aitzol_Berasategi.jpg": "CC-BY-4.0, Aitzol Berasategi",
    f"{FOCAL}/Kleiber_by_Lukas_Baubkus.jpg": "CC-BY-SA-3.0, Lukas Baubkus",
    f"{OPALE}/cat_watching_tv.png": "CC-BY-SA-4.0, Aapo Haapanen and Antoine Wright",
    f"{OPALE}/motherboard.png": "CC-BY-4.0, Quasic and Antoine Wright",
    f"{OPALE}/tv_in_leaves.png": "CC-BY-4.0, Michael Hamann and Antoine Wright",
}
"""File to licence and author, as the packages' ``debian/copyright`` states them; the last three are gray."""

DEBIAN_REDUCTION = 1.6
"""What makes the photographs of the packages as sharp as those of the table."""

ACTIVITIES = (
    *("clickgame", "erase", "explore_farm_animals"),
    *("explore_monuments", "explore_world_animals", "explore_world_music"),
)
"""Parts of GCompris that have photographs."""
FREE = re.compile(r"CC0|CC-BY|public domain", re.IGNORECASE)
MINIMUM_SIDE = 500
_FOLDER, _ZLIB = 2, 1


def read_table(path: Path = TABLE) -> list[dict[str, str]]:
    """Rows of the table of photographs."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fetch(photos: Path, *, site: str) -> int:
    """Fetch and reduce every photograph of the table that the folder lacks; gives the number that failed."""
    photos.mkdir(parents=True, exist_ok=True)
    rows, failed = read_table(), 0
    for number, row in enumerate(rows, 1):
        target = photos / row["file"]
        found = [path for path in (target, target.with_suffix(".png")) if path.is_file()]
        if found:
            continue
        address = "/".join((site, row["repository"], row["commit"], urllib.parse.quote(row["path"])))
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                content = answer.read()
            write_reduced(content, target.with_suffix(".png"), float(row["reduction"]))
            print(f"[{number}/{len(rows)}] {target.stem}", flush=True)
        except (http.client.HTTPException, ImageError, OSError) as error:
            failed += 1
            print(f"[{number}/{len(rows)}] {address}: {error}", file=sys.stderr, flush=True)
    return failed


def write_reduced(content: bytes, target: Path, reduction: float) -> None:
    """Write the photograph in ``content``, made smaller, as PNG; whole or not at all."""
    with Image.open(io.BytesIO(content)) as opened:
        image = reduce_image(decode_image(opened).rgb, reduction)
    with atomic_path(target) as temporary:
        Image.fromarray(image).save(temporary, "PNG")


def unpack_debian(packages: Path, photos: Path) -> int:
    """Write the photographs of unpacked Debian packages, reduced; gives their number."""
    missing = [name for name in (*DEBIAN, GCOMPRIS) if not (packages / name).exists()]
    if missing:
        sys.exit(f"not found under {packages}: {', '.join(missing)}")
    photos.mkdir(parents=True, exist_ok=True)
    licences: dict[str, str] = {}

    def write(name: str, content: bytes, licence: str) -> None:
        target = photos / f"{Path(name).stem}.png"
        if not target.is_file():
            write_reduced(content, target, DEBIAN_REDUCTION)
        licences[target.name] = licence

    for name, licence in DEBIAN.items():
        write(name, (packages / name).read_bytes(), licence)
    for activity in ACTIVITIES:
        unpack_gcompris(packages / GCOMPRIS / f"{activity}.rcc", write)
    text = json.dumps(licences, indent=1, ensure_ascii=False)
    (photos / LICENCES).write_text(f"{text}\n", encoding="utf-8")
    return len(licences)


def unpack_gcompris(rcc: Path, write: Callable[[str, bytes, str], None]) -> None:
    """Write the photographs of one Qt resource file whose README states a free licence."""
    files = dict(resources(rcc))
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
            write(f"{rcc.stem}_{place.rsplit('/', 1)[1]}", files[place], licence)


def resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a Qt resource file: big-endian, a tree of nodes, a table of names, the data.

    A node is its name's offset, flags, then either (child count, first child) or (locale, data offset), and a
    time stamp; a name is its length, a hash and UTF-16; content is its length and bytes, perhaps compressed.
    """
    blob = path.read_bytes()
    if blob[:4] != b"qres":
        sys.exit(f"{path} is not a Qt resource file")
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


def cut(photos: Path, crops: Path, *, held: Path | None, overwrite: bool) -> None:
    """Cut everything in the folder but the held-back photographs, which ``held`` gets the middle of."""
    licences: dict[str, str] = {}
    if (photos / LICENCES).is_file():
        licences = json.loads((photos / LICENCES).read_text("utf-8"))
    files, back = [photos / name for name in sorted(licences)], list[Path]()
    for row in read_table():
        places = [photos / row["file"], (photos / row["file"]).with_suffix(".png")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            print(f"left out, because it is not in {photos}: {row['file']}", file=sys.stderr)
        elif row["split"] == "held-back":
            back.append(path)
        else:
            files.append(path)
            licences[path.name] = f"{row['licence']}, {row['author']}"
    if held is not None:
        write_held(back, held)
    start = time.perf_counter()
    store = prepare_crops(
        files,
        crops,
        crop_size=CROP_SIZE,
        reductions=REDUCTIONS,
        segmenter=SEGMENTER,
        min_gradient=MIN_GRADIENT,
        overwrite=overwrite,
        licences=licences,
        progress=lambda done, total, name: print(f"[{done}/{total}] {name}", flush=True),
    )
    print(f"{len(store)} crops in {time.perf_counter() - start:.0f} s")


def write_held(photos: list[Path], out: Path) -> None:
    """Write the middle of each photograph as PNG, its sides multiples of 8."""
    out.mkdir(parents=True, exist_ok=True)
    for path in photos:
        image = reduce_image(decode_image(path).rgb, 1.0)
        height, width = (min(side, HELD_SIDE) // 8 * 8 for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        Image.fromarray(image[top : top + height, left : left + width]).save(out / f"{path.stem}.png")


def main() -> None:
    """Read the arguments and do one of the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("fetch", help="fetch the photographs of photos.csv, reduced")
    first.add_argument("photos", type=Path, help="folder to write")
    first.add_argument("--site", default=SITE, help="where repositories are (default: %(default)s)")
    second = commands.add_parser("debian", help="take the photographs out of unpacked Debian packages")
    second.add_argument("packages", type=Path, help="folder with one folder per package")
    second.add_argument("photos", type=Path, help="folder to write")
    third = commands.add_parser("cut", help="cut the photographs into crops")
    third.add_argument("photos", type=Path, help="folder of photographs")
    third.add_argument("crops", type=Path, help="folder of crops to write")
    third.add_argument("--held", type=Path, help="folder for the photographs that are not trained on")
    third.add_argument("--overwrite", action="store_true", help="replace the crops that are in CROPS")
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        failed = fetch(arguments.photos, site=arguments.site)
        if failed:
            sys.exit(f"{failed} photographs could not be fetched; run it again to try those alone")
    elif arguments.command == "debian":
        print(f"{unpack_debian(arguments.packages, arguments.photos)} photographs in {arguments.photos}")
    else:
        cut(arguments.photos, arguments.crops, held=arguments.held, overwrite=arguments.overwrite)


if __name__ == "__main__":
    main()
