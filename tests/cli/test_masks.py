"""``sam-diffsr masks``: from flags to files, lines and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.cli import main
from sam_diffsr.cli.app import build_parser
from sam_diffsr.cli.masks import SAM_OPTIONS
from sam_diffsr.errors import DataError
from sam_diffsr.masks.sam import SamOptions
from sam_diffsr.masks.store import read_records, read_structure, write_records


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    image = np.full((40, 60, 3), 30, np.uint8)
    image[:, 30:] = 220
    for name in ("a.png", "b.png"):
        Image.fromarray(image).save(folder / name)
    return folder


def test_flags_have_the_names_and_types_of_the_generator() -> None:
    hints = get_type_hints(SamOptions)
    assert SAM_OPTIONS.keys() == hints.keys() - {"point_grids", "output_mode"}
    for name, (kind, help_text) in SAM_OPTIONS.items():
        assert kind is hints[name] or kind in get_args(hints[name]), name
        default = help_text.rpartition("(")[2].rstrip(")")
        assert eval(default) == pytest.approx(getattr(SamOptions, name)), name
    args = build_parser().parse_args(["masks", "generate", "a", "b", "--crop-overlap-ratio", "0.34"])
    assert args.crop_overlap_ratio == 0.34


def test_generate_encode_show_prepare(pictures, tmp_path, capsys) -> None:
    assert main(["masks", "generate", "photos", "masks", "-m", "graph"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/2] photos/a.png -> masks/a.json (2 regions, ")
    assert lines[-1] == "2 written, 0 skipped, 0 failed"
    assert len(read_records("masks/b.json", size=(40, 60))) == 2
    assert main(["masks", "generate", "photos", "masks", "-m", "graph"]) == 0
    assert "masks/a.json already exists, skipped" in capsys.readouterr().out
    assert main(["masks", "encode", "masks", "fields", "--images", "photos", "--reduction", "region"]) == 0
    assert "times smaller than as float32 .npy" in capsys.readouterr().out
    assert read_structure("fields/a.npz").reduction == "region"
    assert main(["masks", "show", "photos/a.png", "-m", "graph"]) == 0
    assert capsys.readouterr().out == "a_structure.png\n"
    show = ["masks", "show", "photos/a.png", "--masks", "fields/a.npz", "--reduction", "region"]
    assert main([*show, "-o", "x.png"]) == 0
    assert Image.open("x.png").size[0] > 2 * 60
    prepare = ["--crop-size", "32", "--reductions", "1", "--min-gradient", "0", "--masks", "masks"]
    assert main(["data", "prepare", "photos", "crops", *prepare]) == 0
    assert "crops: 2 crops" in capsys.readouterr().out


def test_parts_come_from_the_flag_or_the_launcher(pictures, monkeypatch, capsys) -> None:
    command = ["masks", "generate", "photos", "masks", "-m", "graph"]
    assert main([*command, "--shard", "2/2"]) == 0
    assert not Path("masks/a.json").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 0
    counts = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" failed")]
    assert counts == ["1 written, 0 skipped, 0 failed"] * 2
    assert main([*command, "-q", "--overwrite"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*command, "--ray-workers", "2"]) == 2
    assert "belong to --ray, which is not given" in capsys.readouterr().err
    assert main([*command, "--shard", "3/2"]) == 2
    assert "there is no part 3 of 2" in capsys.readouterr().err


def test_bad_files_are_one_line_each_and_exit_code_1(pictures, capsys) -> None:
    (pictures / "a.png").write_bytes(b"x")
    command = ["masks", "generate", "photos", "masks", "-m", "graph"]
    assert main(command) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("[1/2] photos/a.png: 'photos/a.png' is not an image ")
    assert captured.out.splitlines()[-1] == "1 written, 0 skipped, 1 failed"
    Path("masks/c.json").write_text('[{"segmentation": {"size": [2, 2], "counts": [1, "x"]}}]')
    Path("masks/d.json").write_text('[{"segmentation": {"size": [2, 2], "counts": [1, 99]}}]')
    Path("masks/e.json").write_text('[{"segmentation"')
    write_records("masks/f.json", [])
    assert main(["masks", "encode", "masks", "fields"]) == 1
    captured = capsys.readouterr()
    assert [part in captured.err for part in ("whole numbers", "must cover", "truncated", "no regions")] == [
        True
    ] * 4
    assert len(captured.err.splitlines()) == 4
    assert [path.name for path in Path("fields").iterdir()] == ["b.npz"]
    with pytest.raises(DataError, match="whole numbers"):
        main(["masks", "encode", "masks", "fields", "--debug"])


def test_an_unwritable_folder_is_one_line(pictures, capsys) -> None:
    Path("file").write_text("")
    assert main(["masks", "generate", "photos", "file/masks", "-m", "graph"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam-diffsr: error: cannot write into the folder")


def test_show_refuses_masks_of_another_image(pictures, capsys) -> None:
    write_records("m.json", [{"segmentation": np.ones((40, 59), bool)}])
    assert main(["masks", "show", "photos/a.png", "--masks", "m.json"]) == 1
    assert "expected size (40, 60)" in capsys.readouterr().err
    np.save("nan.npy", np.full((40, 60), np.nan, np.float32))
    assert main(["masks", "show", "photos/a.png", "--masks", "nan.npy"]) == 1
    assert "NaN" in capsys.readouterr().err


def test_show_never_replaces_the_photo(pictures, capsys) -> None:
    content = Path("photos/a.png").read_bytes()
    assert main(["masks", "show", "photos/a.png", "-m", "graph", "-o", "photos/a.png"]) == 1
    assert "it is the source; choose another name" in capsys.readouterr().err
    assert Path("photos/a.png").read_bytes() == content


def test_segment_side_reaches_the_segmenter(pictures, monkeypatch, capsys) -> None:
    import sam_diffsr.data.prepare as prepare

    seen: dict = {}

    class Crops(list):
        skipped = ()

    def fake(photos, out, **given):
        seen.update(given)
        return Crops()

    monkeypatch.setattr(prepare, "prepare_crops", fake)
    assert main(["data", "prepare", "in", "out", "--segment-side", "99"]) == 0
    assert seen["segmenter"].longest_side == 99
    assert main(["data", "prepare", "in", "out", "--segment-side", "99", "--segmenter", "none"]) == 2
    assert "--segment-side belongs to graph segmentation" in capsys.readouterr().err
