"""What a training batch is made of: photographs, crops prepared before, synthetic images, or a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sam_diffsr.config import check_choice
from sam_diffsr.data.degrade import PHOTO, DegradationConfig, DegradationName
from sam_diffsr.errors import ConfigError
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["AugmentConfig", "DataConfig", "MissingMasks", "StructureChoice", "SyntheticConfig"]

MissingMasks = Literal["error", "zero"]
"""What a photo without masks is: an error, or a photo without regions (E = 0)."""

StructureChoice = Literal["stored", "zero"]
"""Where E comes from: the regions, or 0 everywhere (an ablation)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Table ``data.synthetic``: endless images of dead leaves, text and line art (``data.synthetic``)."""

    size: int = 384
    """Side of an image, HR pixels; the structure field is that of the whole image."""
    pool: int = 16
    """Images that windows are cut from at the same time."""
    windows: int = 64
    """Windows cut from each image, on average, before the next one takes its place."""
    pages: float = 0.15
    """Share of the images that are pages of text and line art."""
    photos: str | None = None
    """Folder of photos that colours and textures are taken from; null takes them from natural statistics."""

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096:
            raise ConfigError(f"data.synthetic.size must lie in 32..4096, got {self.size}")
        if self.pool < 1 or self.windows < 1:
            raise ConfigError(
                f"data.synthetic.pool and .windows must be >= 1, got {self.pool} and {self.windows}"
            )
        if not 0 <= self.pages <= 1:
            raise ConfigError(f"data.synthetic.pages must lie in [0, 1], got {self.pages}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Table ``data.augment``: what changes windows beside turning and mirroring, which is always done."""

    permute_channels: float = 0.0
    """Probability that the channels of a window get another order, drawn from all six; 1 makes the orders
    equally likely."""
    mixup: float = 0.0
    """Probability that a window is blended with another one of its batch, before the LR image is made."""
    mixup_alpha: float = 1.2
    """Weights of a blend are drawn from Beta(alpha, alpha): 1 is uniform, less is closer to one of the two,
    more is closer to halves."""

    def __post_init__(self) -> None:
        for name in ("permute_channels", "mixup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"data.augment.{name} is a probability in [0, 1], got {getattr(self, name)}"
                )
        if not 0.01 <= self.mixup_alpha <= 100:
            raise ConfigError(f"data.augment.mixup_alpha must lie in [0.01, 100], got {self.mixup_alpha}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Table ``data``: what a batch is made of; at least one of crops, photos and synthetic."""

    crops: str | None = None
    """Folder written by ``prepare_crops`` or ``synthesize_crops``."""
    photos: str | None = None
    """Folder of HR photos, cut into crops before the first step; for large sets prepare crops yourself."""
    masks: str | None = None
    """Masks of ``photos``, one file for each; null segments the photos by graph (needs scikit-image)."""
    missing_masks: MissingMasks = "error"
    """What to do with photos that have no file in ``masks``."""
    synthetic: SyntheticConfig | None = None
    """Synthetic images; null for none."""
    synthetic_fraction: float = 0.5
    """Share of a batch that is synthetic where there are photos or crops too; alone, either is all of it."""
    patch: int = 160
    """HR side of the windows that the networks see; a multiple of the scale."""
    batch: int = 16
    """Images a step, over all processes."""
    augment: AugmentConfig = AugmentConfig()
    """More than turning and mirroring; off unless set."""
    degradation: DegradationName | DegradationConfig = "bicubic"
    """How LR images are made: ``bicubic``, ``photo`` (see ``data.degrade.PHOTO``), or ranges of your own."""
    structure: StructureChoice = "stored"
    """``zero`` trains with E = 0 whatever the regions are."""
    encoding: Encoding | None = None
    """How regions become numbers, see ``masks.spe``; null is what ``crops`` were prepared with, else rope."""
    reduction: Reduction | None = None
    """What a region's value is divided by; null is what ``crops`` were prepared with, else image."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.batch < 1:
            raise ConfigError(f"data.patch and data.batch must be >= 1, got {self.patch} and {self.batch}")
        if self.augment.mixup and self.batch < 2:
            raise ConfigError("data.augment.mixup needs a second window: set data.batch to at least 2, got 1")
        if self.crops is None and self.photos is None and self.synthetic is None:
            raise ConfigError(
                "there is nothing to train on: set data.crops, data.photos or data.synthetic "
                "({} for its defaults)"
            )
        if self.crops is not None and self.photos is not None:
            raise ConfigError("set either data.crops or data.photos, not both")
        if self.masks is not None and self.photos is None:
            raise ConfigError(
                "data.masks belongs to data.photos; crops hold their masks already, "
                "from `data prepare --masks`"
            )
        if not 0 <= self.synthetic_fraction <= 1:
            raise ConfigError(f"data.synthetic_fraction must lie in [0, 1], got {self.synthetic_fraction}")
        if isinstance(self.degradation, str):
            check_choice(self.degradation, DegradationName, what="data.degradation")
        check_choice(self.missing_masks, MissingMasks, what="data.missing_masks")
        check_choice(self.structure, StructureChoice, what="data.structure")
        if self.encoding is not None:
            check_choice(self.encoding, Encoding, what="data.encoding")
        if self.reduction is not None:
            check_choice(self.reduction, Reduction, what="data.reduction")

    @property
    def damage(self) -> DegradationConfig | None:
        """Ranges of the damage of LR images; None for bicubic ones."""
        if isinstance(self.degradation, DegradationConfig):
            return self.degradation
        return PHOTO if self.degradation == "photo" else None
