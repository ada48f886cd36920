"""Compares time and memory of two installed versions of the package, in turns, in fresh processes.

Give the Python of an environment in which the other version is installed. Each version upscales the same
images with its own bundled model at its defaults.

    python examples/lab/compare_versions.py /path/to/old/bin/python --sizes 512 1024 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import sam_diffsr

PACKAGE = Path(sam_diffsr.__file__).parent
PROBE = str(PACKAGE / "bench" / "probe.py")


def probe(python: str, size: int, threads: int | None, environment: dict[str, str]) -> dict[str, float]:
    """Upscale one ``size`` x ``size`` image in a fresh process of ``python``; seconds and peaks in MB."""
    request = {"model": None, "size": size, "threads": threads, "init": {"device": "cpu"}, "upscale": {}}
    done = subprocess.run(
        [python, PROBE], input=json.dumps(request), capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        sys.exit(f"{python} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print one line per size."""
    parser = argparse.ArgumentParser(description="Compare two installed versions of sam-diffsr.")
    parser.add_argument("other", help="Python of the environment with the other version")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="sides of the inputs")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each version and size (default: 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    args = parser.parse_args()

    # this version may run from a checkout; the other one must not see it
    other_environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    versions = {
        "other": (args.other, other_environment),
        "this": (sys.executable, {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}),
    }
    for size in args.sizes:
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in versions}
        for _ in range(args.repeats):
            for name, (python, environment) in versions.items():
                answers[name].append(probe(python, size, args.threads, environment))
        pairs = zip(answers["this"], answers["other"], strict=True)
        ratio = statistics.median(this["seconds"] / other["seconds"] for this, other in pairs)
        print(f"{size}x{size}: time of this version relative to the other {ratio:.3f}")
        for name, runs in answers.items():
            seconds = statistics.median(run["seconds"] for run in runs)
            used = statistics.median(run["peak_mb"] - run["before_mb"] for run in runs)
            print(f"  {name}: {seconds:.2f} s, {used:.0f} MB beyond the loaded process")


if __name__ == "__main__":
    main()
