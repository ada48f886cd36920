"""Measures how much code an image goes through.

Prints the lines and files of each subpackage. Then it upscales one small image in one piece and prints the
package's own frames between the caller and ``UNet.forward``, the files of the package that run, and the
number of calls. Works with any version of the package.

    python examples/lab/path_of_an_image.py
    python examples/lab/path_of_an_image.py --model my-model --json path.json
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import sam_diffsr
from sam_diffsr import SuperResolver
from sam_diffsr.models.unet import UNet

PACKAGE = Path(sam_diffsr.__file__).parent


def count_lines() -> dict[str, dict[str, int]]:
    """Lines and files of Python per subpackage; modules at the top level are counted together."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        name = parts[0] if len(parts) > 1 else "(top level)"
        lines[name] += len(path.read_text(encoding="utf-8").splitlines())
        files[name] += 1
    table = {name: {"lines": lines[name], "files": files[name]} for name in lines}
    table["total"] = {"lines": lines.total(), "files": files.total()}
    return table


def trace_image(resolver: SuperResolver, side: int) -> dict[str, Any]:
    """Stack at the first ``UNet.forward``, and the files and calls of the package during one ``upscale``."""
    stack: list[str] = []
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event != "call" or not is_ours(frame):
            return
        calls[file_of(frame)] += 1
        if frame.f_code is UNet.forward.__code__ and not stack:
            stack.extend(own_frames(frame))

    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    resolver.upscale(image)  # imports and caches of the first call are not part of the way
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        resolver.upscale(image)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    total = calls.total()
    return {"frames": len(stack), "files": len(calls), "calls": total, "stack": stack, "by_file": calls}


def own_frames(frame: FrameType) -> list[str]:
    """Frames of the package above ``frame``, outermost first; ``frame`` itself is not among them."""
    found: list[str] = []
    above = frame.f_back
    while above is not None:
        if is_ours(above):
            found.append(f"{file_of(above)}:{above.f_lineno} {above.f_code.co_name}")
        above = above.f_back
    return found[::-1]


def is_ours(frame: FrameType) -> bool:
    """True if the frame runs code of the package."""
    return frame.f_code.co_filename.startswith(str(PACKAGE))


def file_of(frame: FrameType) -> str:
    """Path of the frame's file inside the package."""
    return Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()


def main() -> None:
    """Count, trace, print."""
    parser = argparse.ArgumentParser(description="Measure how much code an image goes through.")
    parser.add_argument("--model", help="bundled name, folder or file (default: photo)")
    parser.add_argument("--side", type=int, default=32, help="side of the image in pixels (default: 32)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    args = parser.parse_args()

    lines = count_lines()
    print(f"sam_diffsr {sam_diffsr.__version__}")
    for name, row in lines.items():
        print(f"{name:14} {row['lines']:6} lines {row['files']:4} files")

    path = trace_image(SuperResolver.from_pretrained(args.model, device="cpu"), args.side)
    print(f"\nframes from the caller to UNet.forward: {path['frames']}")
    print("\n".join(f"  {line}" for line in path["stack"]))
    print(f"files of the package that run: {path['files']}, calls: {path['calls']}")
    print("\n".join(f"  {count:6} {name}" for name, count in path["by_file"].most_common()))

    if args.json is not None:
        Path(args.json).write_text(json.dumps({"lines": lines, **path}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
