"""Config of the training data (table ``data``): photographs, crops, synthetic images, augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sam_diffsr.config import check_fields
from sam_diffsr.data.degrade import PHOTO, DegradationConfig, DegradationName
from sam_diffsr.errors import ConfigError
from sam_diffsr.masks.spe import Encoding, Reduction

MissingMasks = Literal["error", "zero"]
"""Treatment of a photo without masks: an error, or no regions (E = 0)."""

StructureChoice = Literal["stored", "zero"]
"""Structure field: that of the regions, or 0 everywhere (an ablation)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Table ``data.synthetic``: endless images of dead leaves, text and line art."""

    size: int = 384
    """Side of an image, HR pixels. The structure field is made for the whole image."""
    pool: int = 16
    """Number of images in use at a time."""
    windows: int = 64
    """Windows cut from each image, on average, before a new one replaces it."""
    pages: float = 0.15
    """Share of the images that are pages of text and line art."""
    photos: str | None = None
    """Folder of photos for colours and textures; null takes them from natural statistics."""

    def __post_init__(self) -> None:
        limits = {"size": "[32, 4096]", "pages": "[0, 1]", "pool": "[1, inf)", "windows": "[1, inf)"}
        check_fields(self, "data.synthetic.", limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Table ``data.augment``: augmentation beyond turning and mirroring, which are always on."""

    permute_channels: float = 0.0
    """Probability of a random order of the channels, per window."""
    mixup: float = 0.0
    """Probability that a window is blended with another of its batch, before the LR image is made."""
    mixup_alpha: float = 1.2
    """Weights of a blend are drawn from Beta(alpha, alpha): 1 is uniform, larger is closer to halves."""

    def __post_init__(self) -> None:
        limits = {"permute_channels": "[0, 1]", "mixup": "[0, 1]", "mixup_alpha": "[0.01, 100]"}
        check_fields(self, "data.augment.", limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Table ``data``: the sources of a batch; at least one of crops, photos and synthetic."""

    crops: str | None = None
    """Folder written by ``prepare_crops`` or ``synthesize_crops``."""
    photos: str | None = None
    """Folder of HR photos, cut into crops before the first step; for large sets use `data prepare`."""
    masks: str | None = None
    """Folder of masks, one file per photo; null segments the photos by graph (needs scikit-image)."""
    missing_masks: MissingMasks = "error"
    """Treatment of photos without a file in ``masks``."""
    synthetic: SyntheticConfig | None = None
    """Synthetic images; null for none."""
    synthetic_fraction: float = 0.5
    """Synthetic share of a batch when photos or crops are given as well."""
    patch: int = 160
    """HR side of the windows that the networks see; a multiple of the scale."""
    batch: int = 16
    """Images per step, over all processes."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation beyond turning and mirroring; off by default."""
    degradation: DegradationName | DegradationConfig = "bicubic"
    """How LR images are made: ``bicubic``, ``photo`` (see ``data.degrade.PHOTO``), or ranges of your own."""
    structure: StructureChoice = "stored"
    """``zero`` trains with E = 0."""
    encoding: Encoding | None = None
    """Position encoding of regions, see ``masks.spe``; null is that of ``crops``, else rope."""
    reduction: Reduction | None = None
    """Divisor of a region's value, see ``masks.spe``; null is that of ``crops``, else image."""

    def __post_init__(self) -> None:
        limits = {"patch": "[1, inf)", "batch": "[1, inf)", "synthetic_fraction": "[0, 1]"}
        check_fields(self, "data.", limits)
        if self.augment.mixup and self.batch < 2:
            raise ConfigError("data.augment.mixup needs a second window: set data.batch to at least 2, got 1")
        if self.crops is None and self.photos is None and self.synthetic is None:
            raise ConfigError(
                "set data.crops, data.photos or data.synthetic ({} for defaults); got none of them"
            )
        if self.crops is not None and self.photos is not None:
            raise ConfigError("set either data.crops or data.photos, not both")
        if self.masks is not None and self.photos is None:
            raise ConfigError(
                "data.masks belongs to data.photos; crops hold their masks already, "
                "from `data prepare --masks`"
            )

    @property
    def damage(self) -> DegradationConfig | None:
        """Ranges of the damage of LR images; None for bicubic ones."""
        if isinstance(self.degradation, DegradationConfig):
            return self.degradation
        return PHOTO if self.degradation == "photo" else None
