"""Compares upscaling on Ray workers of this machine with one process: images per second, overhead, equality.

Every way upscales a short and a long list of equal photographs, in turns. Their difference gives the seconds
per image without the start of workers and models. Needs the extra ``ray``.

    python examples/lab/cluster.py --files 16 --size 128 --rounds 3
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image

from sam_diffsr import SuperResolver
from sam_diffsr.cluster import Cluster, import_ray
from sam_diffsr.distributed import plan_files, upscale_files
from sam_diffsr.image.jobs import Job
from sam_diffsr.pipeline.batch import FileUpscaler, Outcome


def write_photos(folder: Path, count: int, size: int) -> None:
    """Write enlarged noise, as smooth as a photograph."""
    folder.mkdir()
    for number in range(count):
        noise = Image.effect_noise((size // 4, size // 4), 80)
        photo = noise.resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
        photo.save(folder / f"{number:03}.png")


def seconds(outcomes: Iterable[Outcome]) -> float:
    """Do the work; any failure ends the program."""
    started = time.perf_counter()
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one line per way."""
    parser = argparse.ArgumentParser(description="Compare Ray workers of this machine with one process.")
    parser.add_argument(
        "--files",
        type=int,
        default=16,
        help="photographs of the short list; three times more in the long one",
    )
    parser.add_argument("--size", type=int, default=128, help="side of a photograph, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="cores of this machine to use")
    parser.add_argument("--model", help="as for sam-diffsr upscale (default: photo)")
    args = parser.parse_args()

    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers give way to this process
    ray = import_ray(local=True)
    upscaler = FileUpscaler(resolver=SuperResolver.from_pretrained(args.model, device="cpu"))

    def alone(threads: int) -> Callable[[list[Job]], Iterable[Outcome]]:
        def run(jobs: list[Job]) -> Iterable[Outcome]:
            torch.set_num_threads(threads)
            return upscaler.run(jobs)

        return run

    def on_ray(workers: int, cores: int) -> Callable[[list[Job]], Iterable[Outcome]]:
        return lambda jobs: upscale_files(jobs, upscaler, cluster=Cluster(workers=workers, num_cpus=cores))

    ways = {
        "one process, all cores": alone(args.cores),
        "one process, 1 thread": alone(1),
        "1 worker, all cores": on_ray(1, args.cores),
        "1 worker, 1 core": on_ray(1, 1),
        f"{args.cores} workers, 1 core each": on_ray(args.cores, 1),
    }
    per_image: dict[str, list[float]] = {name: [] for name in ways}
    starts: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name:
        folder = Path(name)
        write_photos(folder / "short", args.files, args.size)
        write_photos(folder / "long", 3 * args.files, args.size)
        ray.init(
            address="local",
            num_cpus=args.cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        results: dict[str, list[bytes]] = {}
        for number in range(args.rounds):
            for way, run in ways.items():
                took: dict[str, float] = {}
                for length in ("short", "long"):
                    out = folder / f"{way} {length} {number}"
                    took[length] = seconds(run(plan_files(folder / length, f"{out}/")))
                    results[f"{way} {length}"] = [path.read_bytes() for path in sorted(out.iterdir())]
                per_image[way].append((took["long"] - took["short"]) / (2 * args.files))
                starts[way].append(took["short"] - args.files * per_image[way][-1])
        ray.shutdown()

    first = next(iter(ways))
    print(
        f"{3 * args.files} photographs of {args.size} x {args.size}, {args.cores} cores, {args.rounds} rounds"
    )
    print(f"{'':<28}{'images/s':>10}{'ratio':>8}{'start, s':>10}  equal")
    for way, times in per_image.items():
        ratio = statistics.median(alone / own for alone, own in zip(per_image[first], times, strict=True))
        like = first if "all cores" in way else "one process, 1 thread"  # bits depend on the threads
        equal = all(results[f"{way} {length}"] == results[f"{like} {length}"] for length in ("short", "long"))
        rate, start = 1 / statistics.median(times), statistics.median(starts[way])
        print(f"{way:<28}{rate:>10.2f}{ratio:>8.2f}{start:>10.1f}  {'yes' if equal else 'NO'}")
    extra = statistics.median(
        own - alone
        for alone, own in zip(per_image["one process, 1 thread"], per_image["1 worker, 1 core"], strict=True)
    )
    print(
        f"overhead of a worker of one core against one process of 1 thread: {1000 * extra:.0f} ms per image"
    )


if __name__ == "__main__":
    main()
