"""Writes model cards: front matter for the Hub, usage, and facts about the model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sam_diffsr.pipeline.config import ResolverConfig

CARD_MARK = "library_name: sam_diffsr"
"""A line of every card, which tells it from other texts."""
_CARD = (
    f"---\n{CARD_MARK}\n"
    + """\
pipeline_tag: image-to-image
{license}tags:
- super-resolution
- image-super-resolution
- diffusion
- pytorch
{front}---

# {name}

Image super-resolution by a factor of {scale} with [SAM-DiffSR](https://arxiv.org/abs/2402.17133): \
residual diffusion whose noise carried the structure of the image in training. \
It needs no segmentation when it is used.

```python
from PIL import Image
from sam_diffsr import SuperResolver

resolver = SuperResolver.from_pretrained({quoted})
resolver.upscale(Image.open("photo.png")).save("photo_large.png")
```

| | |
| --- | --- |
| encoder | {encoder.blocks} RRDB blocks, {encoder.channels} channels, growth {encoder.growth} |
| denoiser | {widths} channels |
| schedule | {config.schedule.name}, {config.schedule.timesteps} timesteps |
| structure in training | {config.modulation} |
| default sampling | {sampling} |

{limits} \
Fine detail in its output is plausible, not measured: do not use it to identify people or to read what \
cannot be read in the original.
"""
)
_DAMAGED = (
    "The model was trained on photographs with blur, noise and JPEG compression and removes them as far as "
    "it can."
)
_CLEAN = (
    "The model inverts bicubic downscaling. It does not remove blur, noise or compression: for photographs "
    "that have them, use a photo model."
)


def model_card(
    config: ResolverConfig,
    *,
    name: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    details: str = "",
    front: Sequence[str] = (),
) -> str:
    """Write the card of one model, as Markdown with YAML front matter.

    ``name`` is the title and the name in the example: a Hub id, folder or bundled name. ``license`` is an
    SPDX identifier in lower case, ``datasets`` are Hub ids or names of the training data. ``details`` is
    Markdown for the end (scores, data, training), and ``front`` are further lines of the front matter.
    """
    sampling = config.sampling
    names = ["datasets:", *(f"- {json.dumps(dataset)}" for dataset in datasets)] if datasets else []
    start = "pure noise" if sampling.start is None else f"the encoder's image, noised to t = {sampling.start}"
    way = f"{sampling.sampler}, {sampling.steps} step{'s' if sampling.steps > 1 else ''}, from {start}"
    way += (
        f", blended with {sampling.encoder_share:.0%} of the encoder's image"
        if sampling.encoder_share
        else ""
    )
    card = _CARD.format(
        config=config,
        scale=config.model.scale,
        encoder=config.model.encoder,
        license="" if license is None else f"license: {license}\n",
        front="".join(f"{line}\n" for line in (*names, *front)),
        name=name,
        quoted=json.dumps(name),
        widths=" - ".join(map(str, config.model.denoiser.channels)),
        sampling=way if sampling.steps else "the encoder's image, without diffusion",
        limits=_DAMAGED if config.degradation == "photo" else _CLEAN,
    )
    return f"{card}\n{details.strip()}\n" if details else card
