"""Damaged files, kills and full disks: nothing but errors of ours, nothing lost, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file

from sam_diffsr.cli import main
from sam_diffsr.errors import SamDiffsrError
from sam_diffsr.image import decode_image, save_image
from sam_diffsr.image.read import register_formats
from sam_diffsr.pipeline import SuperResolver

pytestmark = pytest.mark.slow

MUTATIONS = 4000
MOMENTS = 40
MOST_MEMORY = 400 * 2**20
"""Growth of the process over all mutated files, in bytes."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_dir(save_tiny_model: Callable[[int], Path]) -> Path:
    return save_tiny_model(1)


def samples() -> dict[str, bytes]:
    """A small image in every format that is read, with metadata where there is a place for them."""
    register_formats()
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    exif, texts = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010F], exif[0x0112], exif[0x8769] = "Maker", 6, {0xA002: 12, 0x9003: "2024:01:02 03:04:05"}
    texts.add_text("Author", "somebody", zip=True)
    texts.add(b"gAMA", (45455).to_bytes(4, "big"))
    options = {"exif": exif, "icc_profile": b"profile" * 9, "dpi": (300, 300)}
    found: dict[str, bytes] = {}
    for ending in sorted(set(Image.registered_extensions()) & set(READ)):
        name = Image.registered_extensions()[ending]
        for channels in (3, 4, 1):
            image = Image.fromarray(noise[..., :channels].squeeze())
            for extra in ({**options, "pnginfo": texts}, {}):
                file = io.BytesIO()
                try:
                    image.save(file, format=name, **extra)
                except Exception:  # a mode or an option that the format does not have
                    continue
                found[f"{channels}{len(extra)}{ending}"] = file.getvalue()
                break
    deep = io.BytesIO()
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(deep, format="PNG")
    return found | {"deep.png": deep.getvalue()}


READ = [
    ".png",
    ".jpg",
    ".webp",
    ".tif",
    ".gif",
    ".bmp",
    ".ico",
    ".tga",
    ".ppm",
    ".avif",
    ".jp2",
    ".pcx",
    ".sgi",
    ".qoi",
    ".mpo",
    ".heic",
    ".dds",
    ".im",
    ".msp",
    ".icns",
    ".xbm",
    ".blp",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cut, change, swap, repeat or overwrite something; headers more often than the rest."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not content:
            break
        place = rng.randrange(min(len(content), rng.choice((64, len(content)))))
        kind = rng.randrange(7)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            content[place] = rng.randrange(256)
        elif kind == 2:  # a length or an offset
            value = rng.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(2**32)))
            content[place : place + 4] = value.to_bytes(4, rng.choice(("big", "little")))
        elif kind == 3:  # two pieces
            other, size = rng.randrange(len(content)), rng.randrange(1, 33)
            first, second = content[place : place + size], content[other : other + size]
            content[place : place + size], content[other : other + size] = second, first
        elif kind == 4:
            content[place:place] = content[rng.randrange(len(content)) :][: rng.randrange(1, 200)]
        elif kind == 5:
            content[place : place + 8] = rng.choice((b"\0", b"\xff")) * 8
        else:
            del content[place : place + rng.randrange(1, 40)]
    return bytes(content)


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_give_an_image_or_an_error_of_ours(model_dir, tmp_path) -> None:
    resolver = SuperResolver.from_pretrained(model_dir, device="cpu")
    files, rng = samples(), random.Random(0)
    assert len(files) > 15
    resolver.upscale(np.zeros((9, 12, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path, decoded, upscaled = tmp_path / "file", 0, 0
    for index in range(MUTATIONS):
        name = rng.choice(sorted(files))
        data = mutate(files[name], rng)
        path.write_bytes(data)
        try:
            image = decode_image(path, max_pixels=100_000)
            decoded += 1
            if upscaled < MUTATIONS // 10 and image.rgb.numel() < 2000:
                save_image(resolver.upscale(path), tmp_path / "out.png")
                upscaled += 1
        except SamDiffsrError:
            pass
        except BaseException as error:
            raise AssertionError(f"mutation {index} of {name} raised {error!r}") from error
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert 0 < decoded < MUTATIONS
    assert upscaled > 50
    assert grown < MOST_MEMORY
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file", "out.png"}


def test_a_folder_of_damaged_images(model_dir, tmp_path, capfd) -> None:
    files, rng = samples(), random.Random(1)
    (tmp_path / "in").mkdir()
    for index in range(300):
        name = rng.choice(sorted(files))
        (tmp_path / "in" / f"{index:03}{name}").write_bytes(mutate(files[name], rng))
    command = [
        "upscale",
        str(tmp_path / "in"),
        "-m",
        str(model_dir),
        "--device",
        "cpu",
        "--max-pixels",
        "5000",
    ]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    out, errors = capfd.readouterr()
    done, failed = (int(word) for word in out.splitlines()[-1].split()[::4][:2])
    assert done + failed == 300
    assert "Traceback" not in errors
    results = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert len(results) == done > 50
    for name in results:
        assert decode_image(tmp_path / "out" / name).rgb.numel()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["evaluate", "prepare"])
def test_other_commands_on_damaged_images(command, model_dir, tmp_path, capsys) -> None:
    files, rng = samples(), random.Random(2)
    (tmp_path / "in").mkdir()
    for index in range(20):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        name = rng.choice(sorted(files))
        (tmp_path / "in" / f"a{name}").write_bytes(mutate(files[name], rng))
        arguments = {
            "evaluate": ["evaluate", "--hr", str(tmp_path / "in"), "-m", str(model_dir), "--device", "cpu"],
            "prepare": [
                "data",
                "prepare",
                str(tmp_path / "in"),
                str(tmp_path / "out"),
                "--segmenter",
                "none",
            ],
        }[command]
        assert main(arguments) in (0, 1), index
        assert "Traceback" not in capsys.readouterr().err
        (tmp_path / "in" / f"a{name}").unlink()


def test_damaged_models_are_refused(model_dir, tmp_path) -> None:
    rng, refused = random.Random(3), 0
    for index in range(400):
        folder = tmp_path / "model"
        shutil.copytree(model_dir, folder, dirs_exist_ok=True)
        name = rng.choice(("config.json", "model.safetensors"))
        (folder / name).write_bytes(mutate((folder / name).read_bytes(), rng))
        try:
            SuperResolver.from_pretrained(folder, device="cpu")
        except SamDiffsrError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"mutation {index} of {name} raised {error!r}") from error
    assert refused > 100
    assert json.loads((model_dir / "config.json").read_text())


# Kills, full disks

SERVER = """
    import os, random, signal, sys, time
    import torch
    torch.set_num_threads(1)
    from sam_diffsr.cli import main
    import sam_diffsr.pipeline.resolver, sam_diffsr.pipeline.batch, sam_diffsr.training.trainer, accelerate
    moments, number, longest = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    command, rng = sys.argv[4:], random.Random(number)
    for moment in range(moments):
        child = os.fork()
        if child == 0:
            sys.argv = ["sam-diffsr", *command]
            try:
                code = main()
            except SystemExit as exit:
                code = exit.code
            os._exit(code)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        print("\\nmoment", os.waitstatus_to_exitcode(status), flush=True)  # after half a line of the child
"""


def kill(moments: int, number: int, longest: float, command: list[str]) -> list[int]:
    """Run a command in forks of one process, signal each at a random moment, and give the exit codes."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVER), str(moments), str(number), str(longest), *command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("moment ")]
    assert len(lines) == moments, done.stderr
    assert "Traceback" not in done.stderr
    return [int(code) for _, code in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for index in range(60):
        Image.fromarray(rng.integers(0, 256, (14, 18, 3), dtype=np.uint8)).save(
            tmp_path / "in" / f"{index:02}.png"
        )
    return tmp_path


def upscale(folder: Path, model_dir: Path, *flags: str) -> list[str]:
    return [
        "upscale",
        str(folder / "in"),
        "-o",
        str(folder / "out"),
        "-m",
        str(model_dir),
        "--device",
        "cpu",
        *flags,
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_run_that_is_killed_at_random_moments_loses_nothing(folder, model_dir) -> None:
    """Each run goes on where the one before it was killed; every result is whole at every time."""
    import signal

    command = upscale(folder, model_dir, "--skip-existing", "--batch-size", "1")
    started = time.perf_counter()
    assert main([*upscale(folder, model_dir)[:3], str(folder / "whole"), *command[4:]]) == 0
    longest = max(0.4, (time.perf_counter() - started) / 2)
    expected = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    seen: set[str] = set()
    for number, moments in ((signal.SIGTERM, MOMENTS // 2), (signal.SIGKILL, MOMENTS // 2)):
        shutil.rmtree(folder / "out", ignore_errors=True)
        codes = kill(moments, number, longest, command)
        assert set(codes) <= {0, 143, -number}, "stopped, or finished before"
        found = sorted(path.name for path in (folder / "out").iterdir()) if (folder / "out").exists() else []
        whole = [name for name in found if not name.startswith(".")]
        for name in whole:
            assert (folder / "out" / name).read_bytes() == expected[name]
        left = [(folder / "out" / name).read_bytes() for name in found if name not in whole]
        if number == signal.SIGTERM:
            assert not left, "nothing half-written stays"
        elif sys.platform == "linux":  # where a kill can only hit between a file's two names
            assert all(content in expected.values() for content in left)
        seen.update(whole)
        assert main(command) == 0
        assert {path.name for path in (folder / "out").iterdir() if path.name[0] != "."} == set(expected)
    assert seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_training_that_is_killed_at_random_moments_goes_on(tmp_path) -> None:
    """Kills cost the steps since the last checkpoint, and the weights in the end are those of a calm run."""
    import signal

    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "photos" / "a.png")
    prepare = ["--crop-size", "32", "--reductions", "1", "--min-gradient", "0", "--segmenter", "none"]
    assert main(["data", "prepare", str(tmp_path / "photos"), str(tmp_path / "crops"), *prepare]) == 0
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{crops: {tmp_path / 'crops'}, patch: 16, batch: 1}}\n"
        "model: {encoder: {blocks: 2, channels: 4, growth: 2}, denoiser: {dim: 4, multipliers: [1, 2]}}\n"
        "run: {steps: 150, checkpoint_every: 10, device: cpu}\n"
    )
    command = ["train", "rrdb", str(config), "--resume", "--quiet", "--out"]
    assert main([*command, str(tmp_path / "calm")]) == 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        codes = kill(MOMENTS // 4, number, 1.5, [*command, str(tmp_path / "killed")])
        assert set(codes) <= {0, 130, 143, -number}
        assert main([*command, str(tmp_path / "killed")]) == 0
        calm, killed = (
            load_file(tmp_path / name / "checkpoints" / "step-00000150.safetensors")
            for name in ("calm", "killed")
        )
        assert all(torch.equal(calm[key], killed[key]) for key in calm.keys() | killed.keys())
        left = [path.name for path in (tmp_path / "killed").rglob("*") if ".part" in path.name]
        assert not left
        shutil.rmtree(tmp_path / "killed")


def _mount(place: Path, *options: str) -> None:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
def test_a_full_disk_and_a_read_only_one(folder, model_dir, capsys) -> None:
    _mount(folder / "out", "-o", "size=64k")
    try:
        assert main(upscale(folder, model_dir)) == 1
        out, errors = capsys.readouterr()
        assert "No space left on device" in errors
        assert "Traceback" not in errors
        names = [path.name for path in (folder / "out").iterdir()]
        assert names
        assert not [name for name in names if name.startswith(".")]
        for name in names:
            assert decode_image(folder / "out" / name).rgb.shape[-2:] == (56, 72)
        subprocess.run(["mount", "-o", "remount,ro", str(folder / "out")], check=True)
        assert main(upscale(folder, model_dir, "--overwrite")) == 1
        out, errors = capsys.readouterr()
        assert errors.count("no permission to write into") == 60
        assert "0 done, 0 skipped, 60 failed" in out
    finally:
        subprocess.run(["umount", str(folder / "out")], check=False)
