"""Fixtures for every test: fixed seeds, no network, the folder of golden numbers."""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same global random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """Let no test reach another machine: look-ups and connections fail as on a dead network."""

    def is_local(host: Any) -> bool:
        if host is None or host in ("", b"", "localhost", b"localhost"):
            return True
        try:
            return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
        except ValueError:
            return False

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not is_local(address[0]):
            raise ConnectionRefusedError(f"tests reach no other machine; asked for {address}")
        real_connect(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests look up no other machine; asked for {host!r}")
        return real_getaddrinfo(host, *args, **kwargs)

    real_connect, real_getaddrinfo = socket.socket.connect, socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Where the reference numbers lie."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def save_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Write a tiny model with random weights and a number of default steps to a new folder."""
    from sam_diffsr.diffusion import ScheduleConfig
    from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
    from sam_diffsr.pipeline import ResolverConfig, SamplingConfig, SuperResolver

    def save(steps: int) -> Path:
        model = ModelConfig(
            encoder=EncoderConfig(blocks=2, channels=8, growth=4),
            denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
        )
        config = ResolverConfig(
            model=model,
            schedule=ScheduleConfig(timesteps=10),
            sampling=SamplingConfig(sampler="ddim", steps=steps),
        )
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("models") / "tiny"
        SuperResolver(build_model(model), config, device="cpu").save_pretrained(folder)
        return folder

    return save
