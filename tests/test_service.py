"""The service of the examples: results, limits and clear answers."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")

PATH = Path(__file__).parents[1] / "examples" / "03_service.py"


@pytest.fixture(scope="module")
def service() -> Any:
    spec = importlib.util.spec_from_file_location("service", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(service) -> Any:
    return testclient.TestClient(service.app)


def png(width: int = 9, height: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, format="PNG")
    return file.getvalue()


def test_an_image_comes_back_larger(service, client) -> None:
    answer = client.post("/upscale?fidelity=1", content=png())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (36, 28)
    assert np.array_equal(
        np.asarray(image), np.asarray(service.resolver().upscale(io.BytesIO(png()), fidelity=1))
    )


def floats() -> bytes:
    file = io.BytesIO()
    Image.new("F", (9, 7)).save(file, format="TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("limits", "query", "content", "status", "message"),
    [
        ({}, "", b"no image", 415, "is not an image"),
        ({}, "", b"", 415, "is empty"),
        ({}, "", png()[:40], 415, "damaged|not an image"),
        ({}, "", floats(), 415, "cannot write"),
        ({"MAX_BYTES": 50}, "", png(), 413, "more than 50 bytes"),
        ({"MAX_PIXELS": 50}, "", png(), 413, "more than 50 pixels"),
        ({"MAX_SECONDS": -1}, "", png(), 503, "not finished within"),
        ({}, "?fidelity=7", png(), 422, "fidelity must be"),
        ({}, "?fidelity=high", png(), 422, "valid number"),
    ],
)
def test_refusals_are_clear(service, client, monkeypatch, limits, query, content, status, message) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(service, name, value)
    answer = client.post(f"/upscale{query}", content=content)
    assert answer.status_code == status
    assert any(word in answer.text for word in message.split("|"))


def test_it_listens_on_the_loopback_address_and_is_short() -> None:
    text = PATH.read_text()
    assert 'host="127.0.0.1"' in text
    assert len([line for line in text.splitlines() if line.strip()]) <= 60
