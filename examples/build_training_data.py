r"""Build the crops that the bundled model was trained on, from photographs in Debian packages.

Get the photographs (no root needed; any Debian or Ubuntu machine with these packages in its sources)::

    mkdir -p photos && cd photos
    for package in lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 lebiniou-data gcompris-qt-data \
            mate-backgrounds; do
        apt-get download $package && dpkg -x ${package}_*.deb $package
    done && cd ..
    python examples/unpack_gcompris_photos.py \
        photos/gcompris-qt-data/usr/share/gcompris-qt/rcc photos/gcompris

then cut them (a few minutes on one core)::

    python examples/build_training_data.py photos crops --holdout holdout

Every photograph that is trained on is under CC0, CC-BY or CC-BY-SA or in the public domain, as stated per
file in its package's ``debian/copyright`` or, for GCompris, in the README beside it. Abstract wallpapers
of the same packages are left out. ``--holdout`` writes fifteen photographs that are never trained on, only
looked at to choose between runs; most are of ``mate-backgrounds``, which is under the GPL.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from PIL import Image

from sam_diffsr.data.cut import reduce_image
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.image import decode_image
from sam_diffsr.masks.segments import GraphMaskGenerator

LOMIRI = "lomiri-wallpapers-16.04/usr/share/backgrounds"
FOCAL = "lomiri-wallpapers-20.04/usr/share/backgrounds"
OPALE = "lebiniou-data/usr/share/lebiniou/images/opale95"

TRAINING: dict[str, str] = {
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
"""File to licence and author; the last three are grey."""

GCOMPRIS = "gcompris"
"""Folder that ``unpack_gcompris_photos.py`` wrote; all of it is trained on."""

HOLDOUT = (
    f"{LOMIRI}/Picture_0B_by_freespace.jpg",
    f"{LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg",
    f"{LOMIRI}/greentock_by_Peter_Nerlich.jpg",
    *(
        f"mate-backgrounds/usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in (
            *("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow"),
            *("LadyBird", "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
        )
    ),
)
"""Photographs that are only looked at to choose between runs."""

SEGMENTER = GraphMaskGenerator(scale=300.0, sigma=0.8, min_size=200, longest_side=1024)
REDUCTIONS = (1.6, 2.0, 2.5, 3.2, 4.0)
HOLDOUT_SIDE = 512


def write_holdout(root: Path, out: Path) -> None:
    """Write the held-back photographs, reduced by 2 and cut in the middle, as PNG."""
    out.mkdir(parents=True, exist_ok=True)
    for name in HOLDOUT:
        image = reduce_image(decode_image(root / name).rgb, 2.0)
        height, width = (min(side, HOLDOUT_SIDE) // 8 * 8 for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        path = out / f"{Path(name).stem}.png"
        Image.fromarray(image[top : top + height, left : left + width]).save(path)
        print(path)


def main() -> None:
    """Read the arguments, cut the crops, write the held-back photographs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder with one folder per unpacked package")
    parser.add_argument("out", type=Path, help="folder of crops to write")
    parser.add_argument("--holdout", type=Path, help="folder for the photographs that are not trained on")
    parser.add_argument("--crop-size", type=int, default=192, help="side of the crops (default: %(default)s)")
    parser.add_argument(
        "--min-gradient", type=float, default=2.5, help="drop crops flatter than this (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the crops that are in OUT")
    arguments = parser.parse_args()
    listed = arguments.photos / GCOMPRIS / "licences.json"
    needed = [*TRAINING, *(HOLDOUT if arguments.holdout is not None else ())]
    missing = [name for name in needed if not (arguments.photos / name).is_file()]
    if missing or not listed.is_file():
        sys.exit(f"not found under {arguments.photos}: {', '.join(missing or [str(listed)])}")
    gcompris = {f"{GCOMPRIS}/{name}": who for name, who in json.loads(listed.read_text("utf-8")).items()}
    licences = TRAINING | gcompris
    if arguments.holdout is not None:
        write_holdout(arguments.photos, arguments.holdout)
    start = time.perf_counter()
    store = prepare_crops(
        [arguments.photos / name for name in licences],
        arguments.out,
        crop_size=arguments.crop_size,
        reductions=REDUCTIONS,
        segmenter=SEGMENTER,
        min_gradient=arguments.min_gradient,
        overwrite=arguments.overwrite,
        licences={Path(name).name: licence for name, licence in licences.items()},
        progress=lambda done, total, name: print(f"[{done}/{total}] {name}", flush=True),
    )
    print(f"{len(store)} crops in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
