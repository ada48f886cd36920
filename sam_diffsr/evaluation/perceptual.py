"""LPIPS and FID through the libraries ``lpips`` and ``torch-fidelity``.

Their networks' weights are downloaded once into torch's cache (``torch.hub.get_dir()``, moved by
``TORCH_HOME``), or put there by hand, and read with ``weights_only=True`` before a library gets them.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError, ModelLoadError

PairDistance = Callable[[Tensor, Tensor], float]
"""Distance of two uint8 images ``(1, 3, H, W)``."""
Features = Callable[[Tensor], Tensor]
"""uint8 ``(1, 3, H, W)`` to a float vector ``(D,)`` on the CPU."""

_ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"  # torchvision's
_LPIPS_SMALLEST = 31


def lpips_distance(device: str | torch.device = "cpu", *, network: Any = None) -> PairDistance:
    """LPIPS with AlexNet, version 0.1 (Zhang et al. 2018, arXiv 1801.03924), which papers report most.

    Returns:
        A function of two 8-bit images: 0 for equal ones, larger is worse. It computes on ``device`` with
        ``network``, an ``lpips.LPIPS`` module; None builds the trained one.

    Raises:
        MissingDependencyError: ``lpips`` is not installed.
        ModelLoadError: AlexNet's weights are not in torch's cache and cannot be downloaded, or are damaged.
    """
    loss = lpips_loss(network=network)

    @torch.inference_mode()
    def distance(sr: Tensor, hr: Tensor) -> float:
        height, width = hr.shape[-2:]
        if min(height, width) < _LPIPS_SMALLEST:
            raise ImageError(
                f"LPIPS needs at least {_LPIPS_SMALLEST}x{_LPIPS_SMALLEST} pixels inside the border, got "
                f"{width}x{height}"
            )
        return float(loss(*(image.to(device).float() / 127.5 - 1 for image in (sr, hr))))

    return distance


def lpips_loss(*, network: Any = None) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS as a loss: differentiable, in float32 whatever the precision around it is.

    Returns:
        A function of two batches of images ``(B, 3, H, W)`` in [-1, 1] that gives ``(B,)``. ``network`` and
        errors are as in :func:`lpips_distance`.
    """
    network = (_lpips_network() if network is None else network).eval().requires_grad_(False)

    def loss(sr: Tensor, hr: Tensor) -> Tensor:
        with torch.autocast(sr.device.type, enabled=False):
            return network.to(sr.device)(sr.float(), hr.float()).flatten()

    return loss


def lpips_weights_path() -> Path:
    """Where ``examples/lab/lpips_weights.py`` puts AlexNet's convolutions."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "lpips-alexnet.safetensors"


def _lpips_network() -> Any:
    """The linear layers of ``lpips`` on torchvision's AlexNet."""
    try:
        import lpips
    except ImportError as error:
        raise MissingDependencyError("LPIPS needs lpips: pip install 'sam-diffsr[eval]'") from error
    own = lpips_weights_path()
    if not own.is_file():
        _require_weights(_ALEXNET_URL, what="LPIPS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in a way that it calls deprecated
        network = lpips.LPIPS(net="alex", verbose=False, pnet_rand=own.is_file())
    if own.is_file():
        try:
            state = load_file(own)
            # slice1.0.weight is torchvision's features.0.weight
            names = {key: f"features.{key.partition('.')[2]}" for key in network.net.state_dict()}
            network.net.load_state_dict({key: state[name] for key, name in names.items()})
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelLoadError(
                f"{own} does not hold AlexNet's convolutions ({error}); make it again with "
                "examples/lab/lpips_weights.py"
            ) from error
    return network


def inception_features(device: str | torch.device = "cpu", *, network: Any = None) -> Features:
    """The 2048 pooled features of the FID's Inception network; the network resizes images to 299x299.

    Returns:
        A function of one 8-bit image. It computes on ``device`` with ``network``, a feature extractor of
        ``torch-fidelity``; None builds the trained one, with errors as in :func:`lpips_distance`.
    """
    network = (_inception_network() if network is None else network).to(device).eval()

    @torch.inference_mode()
    def features(image: Tensor) -> Tensor:
        (vector,) = cast("Sequence[Tensor]", network(image.to(device)))
        return vector[0].float().cpu()

    return features


def _inception_network() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as inception
    except ImportError as error:
        raise MissingDependencyError("FID needs torch-fidelity: pip install 'sam-diffsr[eval]'") from error
    path = os.fspath(_require_weights(inception.URL_INCEPTION_V3, what="FID"))
    return inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)


def frechet_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Fréchet distance of two sets of vectors ``(D,)``, taken as Gaussian (Heusel et al. 2017, equation 6).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` in float64. With fewer images than features it depends on
    their number: compare only values from equally many images. A set of fewer than two is an
    ``ArgumentError``.
    """
    if min(len(first), len(second)) < 2:
        raise ArgumentError(
            f"FID compares two sets of at least 2 images, got {len(first)} and {len(second)}; leave it out"
        )
    one, two = (torch.stack(list(vectors)).double() for vectors in (first, second))
    mean1, mean2 = one.mean(dim=0), two.mean(dim=0)
    # with C = A^T A the eigenvalues of C1 C2 are the squared singular values of A1 A2^T
    root1, root2 = (one - mean1) / math.sqrt(len(one) - 1), (two - mean2) / math.sqrt(len(two) - 1)
    cross = cast("Tensor", torch.linalg.svdvals(root1 @ root2.T)).sum()
    spread = root1.square().sum() + root2.square().sum()
    return max(0.0, float((mean1 - mean2).square().sum() + spread - 2 * cross))


def _require_weights(url: str, *, what: str) -> Path:
    """Download a file of weights into torch's cache unless it is there; check that it holds only weights."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        torch.hub.load_state_dict_from_url(  # pyright: ignore[reportUnknownMemberType]
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # the network, the disk and the unpickler each have errors of their own
        raise ModelLoadError(
            f"{what} needs weights that are not part of any package, and {path} cannot be downloaded or read "
            f"({error}); download {url} on another machine and put it there, or leave {what} out"
        ) from error
    return path
