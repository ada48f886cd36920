"""Model cards: front matter that the Hub understands, and an example that names the model."""

from __future__ import annotations

import pytest

from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig


def test_the_card_names_the_model_and_what_it_is_made_of():
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=8, start=40))
    card = model_card(
        config, name="team/x4", license="apache-2.0", datasets=["photos"], details="## Scores\n\n27 dB\n"
    )
    front, body = card.removeprefix("---\n").split("---\n", 1)
    for line in (
        "library_name: sam_diffsr",
        "pipeline_tag: image-to-image",
        "license: apache-2.0",
        '- "photos"',
    ):
        assert line in front.splitlines()
    assert 'SuperResolver.from_pretrained("team/x4")' in body
    assert "| encoder | 17 RRDB blocks, 64 channels, growth 32 |" in body
    assert "ddim, 8 steps, from the encoder's image, noised to t = 40" in body
    assert body.endswith("## Scores\n\n27 dB\n")


def test_what_is_unknown_is_left_out():
    card = model_card(ResolverConfig(sampling=SamplingConfig(sampler="ddpm", steps=100)), name="m")
    assert "license" not in card
    assert "datasets" not in card
    assert "from pure noise" in card


def test_the_hub_client_reads_the_front_matter():
    ModelCard = pytest.importorskip("huggingface_hub").ModelCard
    config = ResolverConfig(sampling=SamplingConfig(sampler="ddpm", steps=100))
    data = ModelCard(model_card(config, name="m", license="mit", datasets=["a", "b"])).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("sam_diffsr", "image-to-image", "mit")
    assert data.datasets == ["a", "b"]
    assert "super-resolution" in data.tags
