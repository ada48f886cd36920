"""What a measurement or a bug report must say about the machine: versions, devices, threads, caches."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sam_diffsr.device import resolve_device
from sam_diffsr.pipeline.checkpoint import DEFAULT_MODEL, available_models, load_pretrained

__all__ = [
    "describe_commit",
    "describe_environment",
    "describe_machine",
    "describe_models",
    "describe_versions",
]

_DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "segment-anything",
)
_GIBIBYTE = 1024**3


def describe_versions(*, extra: Sequence[str] = ()) -> dict[str, str]:
    """Versions of this library, Python, what it runs on and more packages; a missing one is called so."""
    from sam_diffsr import __version__  # here, because the package root names modules below this one

    versions = {"sam-diffsr": __version__, "python": platform.python_version()}
    for name in (*_DISTRIBUTIONS, *extra):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def describe_commit() -> str | None:
    """Git commit of the checkout that this library runs from, ``-dirty`` if its files differ; else None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit, changes = (
        _git(root, "rev-parse", "HEAD"),
        _git(root, "status", "--porcelain", "--untracked-files=no"),
    )
    return None if not commit else f"{commit}-dirty" if changes else commit


def describe_machine(device: str | torch.device = "auto") -> dict[str, Any]:
    """The device that a name stands for and the threads that torch uses, as JSON values.

    Raises:
        ArgumentError: this machine does not have the device.
    """
    resolved = resolve_device(device)
    return {
        "platform": platform.platform(),
        "device": str(resolved),
        "device_name": _device_name(resolved),
        "threads": torch.get_num_threads(),
        "logical_cpus": os.cpu_count(),
    }


def describe_models() -> list[dict[str, Any]]:
    """The models inside the package: name, scale, size and default sampling."""
    models: list[dict[str, Any]] = []
    for name in available_models():
        config, state_dict = load_pretrained(name)
        models.append(
            {
                "name": name,
                "default": name == DEFAULT_MODEL,
                "scale": config.model.scale,
                "parameters": sum(value.numel() for value in state_dict.values()),
                "sampler": config.sampling.sampler,
                "steps": config.sampling.steps,
                "start": config.sampling.start,
            }
        )
    return models


def describe_environment() -> dict[str, Any]:
    """Everything that ``sam-diffsr info`` prints, as JSON values. No network is used."""
    from huggingface_hub import constants

    return {
        "versions": describe_versions(),
        "machine": {**describe_machine(), "cuda_devices": _cuda_devices(), "mps": _has_mps()},
        "hub": {
            "cache": str(Path(constants.HF_HUB_CACHE)),
            "endpoint": constants.ENDPOINT,
            "offline": bool(constants.HF_HUB_OFFLINE),
        },
        "models": describe_models(),
    }


def _git(root: Path, *arguments: str) -> str:
    """Output of git; nothing where it is not installed or refuses."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type
    )


def _processor() -> str:
    """The CPU's name; Python's own answer is empty or only the architecture on Linux."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cuda_devices() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    return [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gb": _gigabytes(index),
        }
        for index in range(torch.cuda.device_count())
    ]


def _gigabytes(index: int) -> float:
    _, total = torch.cuda.mem_get_info(index)
    return round(total / _GIBIBYTE, 1)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
