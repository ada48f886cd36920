"""Work on a real Ray cluster of two workers: results of one process, nothing lost to bad files or kills."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import sam_diffsr.cluster
from sam_diffsr import SuperResolver, distributed
from sam_diffsr.cli import main
from sam_diffsr.cluster import Cluster, connected, find_room, import_ray
from sam_diffsr.distributed import generate_masks, plan_files, upscale_files
from sam_diffsr.errors import (
    ArgumentError,
    ClusterError,
    DataError,
    ImageError,
    MissingDependencyError,
    OutputError,
)
from sam_diffsr.image.jobs import Job
from sam_diffsr.masks.folders import load_generator
from sam_diffsr.pipeline.batch import FileUpscaler

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback
    "RAY_worker_niceness": "0",
}


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """A cluster of this machine with room for two workers, to which the process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        module = import_ray(local=True)
        module.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        assert module.util.get_node_ip_address() == "127.0.0.1"
        yield module
        module.shutdown()


@pytest.fixture(scope="module")
def model_dir(save_tiny_model: Callable[[int], Path]) -> Path:
    return save_tiny_model(2)


@pytest.fixture
def upscaler(model_dir: Path) -> FileUpscaler:
    return FileUpscaler(resolver=SuperResolver.from_pretrained(model_dir, device="cpu"), seed=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures of two sizes, one in a subfolder, and a file that only has the name of one."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    for number in range(6):
        Image.effect_noise((9 + number % 2, 7), 60).convert("RGB").save(folder / f"{number}.png")
    Image.effect_noise((6, 8), 60).save(folder / "trip" / "b.jpg")
    (folder / "bad.png").write_bytes(b"x")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_command_writes_what_it_writes_alone(ray, photos, tmp_path, model_dir, capsys) -> None:
    def upscale(out: str, *more: str) -> int:
        return main(
            [
                "upscale",
                str(photos),
                "-r",
                "-o",
                str(tmp_path / out),
                "-m",
                str(model_dir),
                "--seed",
                "3",
                *more,
            ]
        )

    assert upscale("alone") == 1
    capsys.readouterr()
    assert upscale("cluster", "--ray") == 1
    shown = capsys.readouterr()
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "cluster")) == 7
    heads, counts, reason = shown.out.splitlines()[-3:]
    assert heads.split() == ["written", "skipped", "failed", "seconds", "images/s"]
    assert counts.split()[:3] == ["7", "0", "1"]
    assert reason.startswith("failed: ")
    assert "bad.png' is not an image" in reason
    assert "bad.png: " in shown.err

    # Finished results are skipped before anything is read, or a cluster is asked.
    (photos / "bad.png").unlink()
    for path in photos.rglob("*.*"):
        path.write_bytes(b"")
    assert upscale("cluster", "--ray", "127.0.0.1:1", "--skip-existing") == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["0", "7", "0"]
    assert upscale("cluster", "--ray", "127.0.0.1:1") == 1
    assert "already exists; overwrite (--overwrite) or skip it" in capsys.readouterr().err


@pytest.mark.slow
def test_from_store_to_store(ray, photos, tmp_path, upscaler) -> None:
    list(upscaler.run(plan_files(photos, tmp_path / "alone", recursive=True)))
    jobs = plan_files(f"local://{photos}", f"local://{tmp_path}/cluster", recursive=True, suffix="out")
    outcomes = list(upscale_files(jobs, upscaler))
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    (failed,) = [outcome for outcome in outcomes if outcome.status == "failed"]
    with pytest.raises(ImageError, match=rf"'local://{photos}/bad.png' is not an image"):
        raise failed.error or AssertionError
    again = upscale_files(jobs, upscaler, existing="skip", cluster=Cluster(workers=1))
    assert sorted(outcome.status for outcome in again) == ["failed", *["skipped"] * 7]


@pytest.mark.slow
def test_masks_are_those_of_one_process(ray, photos, tmp_path, capsys) -> None:
    pytest.importorskip("skimage")
    generate = ["masks", "generate", "-m", "graph"]
    assert main([*generate, str(photos), str(tmp_path / "alone")]) == 1
    assert main([*generate, str(photos), str(tmp_path / "cluster"), "--ray", "--ray-workers", "1"]) == 1
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    assert capsys.readouterr().out.splitlines()[-2].split()[:3] == ["7", "0", "1"]
    stored = generate_masks(
        f"local://{photos}", f"local://{tmp_path}/store", partial(load_generator, "graph")
    )
    assert sorted(outcome.status for outcome in stored) == ["failed", *["written"] * 7]
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_loses_nothing(ray, tmp_path, upscaler) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        Image.effect_noise((24, 24), 60).convert("RGB").save(folder / f"{number}.png")
    outcomes = upscale_files(plan_files(folder, tmp_path / "cluster"), upscaler, cluster=Cluster(workers=2))
    statuses = [next(outcomes).status]
    os.kill(workers()[0], signal.SIGKILL)
    statuses += [outcome.status for outcome in outcomes]
    assert statuses == ["written"] * 24
    list(upscaler.run(plan_files(folder, tmp_path / "alone")))
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")


def workers() -> list[int]:
    """Processes of the workers of this test."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_file_that_kills_its_workers_fails_alone(ray, photos, tmp_path, model_dir) -> None:
    (photos / "bad.png").unlink()
    Image.new("RGB", (13, 5)).save(photos / "z.png")

    def factor(_height: int, width: int) -> None:
        if width == 13:
            os._exit(1)

    resolver = SuperResolver.from_pretrained(model_dir, device="cpu")
    poisoned = FileUpscaler(resolver=resolver, factor=factor)
    outcomes = list(upscale_files(plan_files(photos, tmp_path / "x"), poisoned))
    (failed,) = [outcome for outcome in outcomes if outcome.status != "written"]
    assert failed.job.source.name == "z.png"
    with pytest.raises(ClusterError, match="3 workers were killed while they did this file"):
        raise failed.error or AssertionError
    assert len(contents(tmp_path / "x")) == 6


@pytest.mark.slow
def test_workers_that_share_a_gpu(photos, tmp_path, model_dir) -> None:
    """Ray hands out what it is told that there is."""
    program = (
        "import sys, ray\n"
        "from sam_diffsr import SuperResolver\n"
        "from sam_diffsr.distributed import Cluster, plan_files, upscale_files\n"
        "from sam_diffsr.pipeline import FileUpscaler\n"
        "photos, out, model = sys.argv[1:]\n"
        "ray.init('local', num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)\n"
        "upscaler = FileUpscaler(resolver=SuperResolver.from_pretrained(model, device='cpu'))\n"
        "shared = Cluster(workers=2, num_gpus=0.5)\n"
        "found = upscale_files(plan_files(photos, out), upscaler, cluster=shared)\n"
        "print(sorted(outcome.status for outcome in found))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, photos, tmp_path / "x", model_dir],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout.splitlines()[-1] == str(["failed", *["written"] * 6]), result.stderr


@pytest.mark.slow
def test_an_error_of_every_file_ends_the_run(ray, photos, tmp_path) -> None:
    def load(device: str) -> None:
        raise ArgumentError(f"no such generator on {device}")

    with pytest.raises(ArgumentError, match="no such generator on cpu"):
        list(generate_masks(photos, tmp_path / "x", load))  # pyright: ignore


@pytest.mark.slow
def test_a_worker_without_the_package(photos, tmp_path, model_dir) -> None:
    """The command starts a cluster of its own, whose workers cannot import the package."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('default_worker' in word for word in sys.orig_argv):\n"
        "    sys.modules['sam_diffsr'] = None\n"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "sam_diffsr",
            "upscale",
            photos,
            "-o",
            tmp_path / "x",
            "-m",
            model_dir,
            "--ray",
        ],
        env={
            **os.environ,
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join([str(blocked), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1
    assert "the node 127.0.0.1 cannot import sam_diffsr" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(tmp_path / "x") == {}


# What is refused before the work


@pytest.mark.parametrize(
    ("cluster", "problem"),
    [
        (Cluster(workers=3), "room for 2 workers of 1 CPUs and 0 GPUs, not for 3"),
        (Cluster(num_cpus=4), "room for 0 workers of 4 CPUs and 0 GPUs, not for one"),
        (Cluster(num_gpus=2), "room for 0 workers of 1 CPUs and 2 GPUs, not for one"),
    ],
)
def test_a_cluster_that_is_too_small(ray, photos, tmp_path, upscaler, cluster, problem) -> None:
    with pytest.raises(ClusterError, match=problem):
        list(upscale_files(plan_files(photos, tmp_path / "x"), upscaler, cluster=cluster))
    assert contents(tmp_path / "x") == {}


def test_a_node_that_differs(ray, tmp_path, monkeypatch) -> None:
    with pytest.raises(ClusterError, match=r"does not see .*; use a folder that all nodes share"):
        find_room(ray, Cluster(), marker=str(tmp_path / "missing" / "marker"))
    monkeypatch.setattr(sam_diffsr.cluster, "__version__", "9.9")
    with pytest.raises(ClusterError, match=r"has sam-diffsr \d.*; install 9.9, which this machine has"):
        find_room(ray, Cluster())


@pytest.mark.parametrize("answers", [False, True])
def test_an_address_that_nobody_answers(
    answers: bool, monkeypatch, photos, tmp_path, model_dir, capsys
) -> None:
    """A closed port, and a program that accepts a connection and says nothing."""
    monkeypatch.setattr(sam_diffsr.cluster, "_JOIN_TIMEOUT", 4)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if answers:
            listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        command = ["upscale", str(photos), "-o", str(tmp_path / "x"), "-m", str(model_dir), "--ray", address]
        assert main(command) == 1
    assert f"cannot join a Ray cluster at {address}; check the address" in capsys.readouterr().err
    assert time.monotonic() - started < 60
    assert contents(tmp_path / "x") == {}


@pytest.mark.slow
def test_a_cluster_that_has_gone(monkeypatch) -> None:
    """Ray itself would look for it for three minutes."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(sam_diffsr.cluster, "_CONNECT_TIMEOUT", 1)
    cluster = Cluster(address="auto")
    with pytest.raises(ClusterError, match=r"at auto; .*\(.*Failed to connect to GCS"), connected(cluster):
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", "photos/", ":1"])
def test_what_is_no_address(address: str) -> None:
    cluster = Cluster(address=address)
    with pytest.raises(ArgumentError, match="a Ray address is auto or host:port of"), connected(cluster):
        pass


def test_truncated_records_are_made_again(photos, tmp_path, monkeypatch) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    (out / "0.json").write_text("[]")
    (out / "1.json").write_text('[{"segm')

    def on_workers(ray: object, waiting: dict[int, Job], *_: object) -> Iterator[tuple[int, dict[str, str]]]:
        yield from ((number, {"status": "written"}) for number in waiting)

    monkeypatch.setattr(distributed, "_on_workers", on_workers)
    monkeypatch.setattr(distributed, "connected", nullcontext)
    monkeypatch.setattr(distributed, "find_room", lambda *_, **options: Cluster())
    files = [photos / "0.png", photos / "1.png"]
    outcomes = generate_masks(files, out, partial(load_generator, "graph"))
    assert {outcome.source.name: outcome.status for outcome in outcomes} == {
        "0.png": "skipped",
        "1.png": "written",
    }


def test_videos_are_left_to_one_process(tmp_path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ArgumentError, match=r"a cluster upscales images; upscale the video '.*clip\.mp4'"):
        plan_files(tmp_path / "clip.mp4", tmp_path / "out")


def test_an_output_that_cannot_be_written(photos, tmp_path, upscaler) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write into the folder"):
        list(upscale_files(plan_files(photos, tmp_path / "file" / "x"), upscaler))
    with pytest.raises(OutputError, match="cannot write 'local:///"):
        list(upscale_files(plan_files(photos, f"local://{tmp_path}/file/x"), upscaler))


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_results_are_not_read_again(photos, scheme: str) -> None:
    (photos / "large").mkdir()
    Image.new("RGB", (3, 3)).save(photos / "large" / "0_out.png")
    jobs = plan_files(f"{scheme}{photos}", f"{scheme}{photos}/large", recursive=True)
    assert len(jobs) == 8
    (photos / "empty").mkdir()
    with pytest.raises(ImageError, match="no image"):
        plan_files(f"{scheme}{photos}/empty", f"{scheme}{photos}/x", recursive=True)


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_two_files_with_one_result(photos, tmp_path, scheme: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (3, 3)).save(other / "0.png")
    jobs = plan_files([f"{scheme}{photos}", f"{scheme}{other}"], f"{scheme}{tmp_path}/x")
    (refused,) = [job for job in jobs if job.problem is not None]
    with pytest.raises(ArgumentError, match="would both be written to"):
        raise refused.problem or AssertionError
    with pytest.raises(DataError, match="would both be written to"):
        list(generate_masks([photos / "0.png", other / "0.png"], tmp_path, partial(load_generator, "graph")))


def test_what_a_cluster_does_not_do(photos, tmp_path, upscaler, model_dir, capsys) -> None:
    with pytest.raises(ArgumentError, match="standard input and output are this process's"):
        plan_files("-", tmp_path / "x")
    with pytest.raises(ArgumentError, match="dry_run is for a single process"):
        list(upscale_files(plan_files(photos, tmp_path / "x"), upscaler, dry_run=True))
    for place in (f"local://{photos}", photos):
        jobs = plan_files(place, f"local://{tmp_path}/x")
        with pytest.raises(ArgumentError, match="keep_time is for local files"):
            upscale_files(jobs, upscaler, keep_time=True)
    with pytest.raises(ArgumentError, match="workers must be at least 1, got 0"):
        Cluster(workers=0)
    command = ["upscale", str(photos), "-m", str(model_dir), "--ray"]
    with pytest.raises(SystemExit):
        main(command)
    assert "--ray needs the place of the results" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "x"), "--device", "cuda:1"]) == 2
    assert "use --ray-gpus instead of --device" in capsys.readouterr().err
    assert main(["masks", "generate", str(photos), str(tmp_path), "--ray", "--shard", "1/2"]) == 2
    assert "--shard and --ray exclude each other" in capsys.readouterr().err


def test_without_ray(monkeypatch, photos, tmp_path, model_dir, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"run: pip install sam-diffsr\[ray\]"):
        import_ray()
    assert main(["upscale", str(photos), "-o", str(tmp_path / "x"), "-m", str(model_dir), "--ray"]) == 1
    assert "pip install sam-diffsr[ray]" in capsys.readouterr().err
