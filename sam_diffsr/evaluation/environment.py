"""Describes the machine and the software for measurements and bug reports."""

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

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "huggingface-hub", "segment-anything")


def describe_versions(*, extra: Sequence[str] = ()) -> dict[str, str]:
    """Versions of this library, Python, its dependencies and the packages in ``extra``."""
    from sam_diffsr import __version__  # here, because the package root names modules below this one

    versions = {"sam-diffsr": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *extra):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def describe_commit() -> str | None:
    """Git commit of the library's checkout, ``-dirty`` if files differ; None for an installed library."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # git is missing or fails
        return None
    return done.stdout.strip()


def describe_machine(device: str | torch.device = "auto") -> dict[str, Any]:
    """The resolved device and torch's threads, as JSON values; ``ArgumentError`` for a missing device."""
    resolved = resolve_device(device)
    return {
        "platform": platform.platform(),
        "device": str(resolved),
        "device_name": _device_name(resolved),
        "threads": torch.get_num_threads(),
        "logical_cpus": os.cpu_count(),
    }


def describe_environment() -> dict[str, Any]:
    """Everything that ``sam-diffsr info`` prints, as JSON values; uses no network."""
    from huggingface_hub import constants

    cuda: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.mem_get_info(index)[1]
        cuda.append({"name": torch.cuda.get_device_name(index), "memory_gb": round(memory / 1024**3, 1)})
    models: list[dict[str, Any]] = []
    for name in available_models():
        config, state_dict = load_pretrained(name)
        model = {"name": name, "default": name == DEFAULT_MODEL, "scale": config.model.scale}
        model["parameters"] = sum(value.numel() for value in state_dict.values())
        keys = ("sampler", "steps", "start", "encoder_share")
        models.append(model | {key: getattr(config.sampling, key) for key in keys})
    return {
        "versions": describe_versions(),
        "machine": {**describe_machine(), "cuda_devices": cuda, "mps": torch.backends.mps.is_available()},
        "hub": {
            "cache": str(Path(constants.HF_HUB_CACHE)),
            "endpoint": constants.ENDPOINT,
            "offline": bool(constants.HF_HUB_OFFLINE),
        },
        "models": models,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    table = Path("/proc/cpuinfo")  # Python does not know the CPU's name on Linux
    lines = table.read_text(encoding="utf-8", errors="replace").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
