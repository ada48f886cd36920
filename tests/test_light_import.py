"""What importing the package costs: no heavy library, no socket. Each case runs in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sam_diffsr

PROBE = """
import json, sys

sockets = []
sys.addaudithook(lambda event, args: sockets.append(event) if event.startswith("socket.") else None)
try:
    {statement}
except SystemExit:
    pass
print()
modules = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"modules": modules, "sockets": sockets}}))
"""

# Needed only by one feature each: never loaded along with the package.
OPTIONAL = {
    "accelerate",
    "cv2",
    "diffusers",
    "huggingface_hub",
    "lpips",
    "pyarrow",
    "pycocotools",
    "ray",
    "segment_anything",
    "skimage",
    "sklearn",
    "torch_fidelity",
    "torchvision",
}
HEAVY = OPTIONAL | {"PIL", "numpy", "safetensors", "torch", "tqdm", "yaml"}


def probe(statement: str) -> tuple[set[str], list[str]]:
    """Top-level names of the modules that ``statement`` loads, and the socket events it causes."""
    path = os.pathsep.join(
        filter(None, [str(Path(sam_diffsr.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    return set(seen["modules"]), seen["sockets"]


@pytest.mark.parametrize(
    "statement",
    [
        "import sam_diffsr; sam_diffsr.__version__, dir(sam_diffsr), sam_diffsr.SamDiffsrError",
        "from sam_diffsr import cli; cli.main(['--version'])",
        "from sam_diffsr import cli; cli.main(['upscale', '--help'])",
    ],
)
def test_the_package_and_the_help_text_load_nothing_heavy(statement: str):
    modules, sockets = probe(statement)
    assert "sam_diffsr" in modules
    assert modules & HEAVY == set()
    assert sockets == []


@pytest.mark.parametrize(
    "statement",
    [
        "import sam_diffsr.pipeline",
        "from sam_diffsr import ModelConfig, ResolverConfig, ScheduleConfig, SuperResolver, available_models",
        "import sam_diffsr.training, sam_diffsr.data, sam_diffsr.evaluation, sam_diffsr.masks",
    ],
)
def test_the_parts_load_no_optional_library(statement: str):
    modules, sockets = probe(statement)
    assert "torch" in modules
    assert modules & OPTIONAL == set()
    assert [event for event in sockets if event in ("socket.connect", "socket.getaddrinfo")] == []


def test_the_probe_sees_imports_and_sockets():
    modules, sockets = probe("import numpy, socket; socket.socket().close()")
    assert "numpy" in modules
    assert sockets
