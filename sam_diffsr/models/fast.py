"""Fast paths of the denoiser on a CPU: Mish in pieces of the cache, 3x3 convolutions with half the products.

Both give what the plain PyTorch operation gives, within rounding. They serve inference on a CPU in float32
(Mish also in bfloat16); everywhere else (autograd, torch.compile, torch.export, other devices and types) the
plain operation runs.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

_PIECE = 131072
"""Elements per thread that are computed at a time; they and their scratch space stay in the cache."""
_LOG2_E = 1 / math.log(2)
"""``exp(x) = exp2(x * _LOG2_E)``, which takes half the time of PyTorch's ``exp``, or less."""
_MIN_CHANNELS = 48
"""Narrower convolutions gain nothing: the products that are saved cost as many additions."""
_LINES, _TAPS = 4, 3
_SUMS = _LINES + _TAPS - 1
_MIN_ROWS = 128
"""Rows of the smallest matrix product; with fewer, fetching the weights takes longer than multiplying."""
# The matrices of F(4, 3) at the points 0, 1, -1, 2, -2 and infinity.
_FROM_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_FROM_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_TO_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)
_BIASED_SUM = 1
"""The sum that reaches all four lines with weight 1 (the column of ones in ``_TO_OUTPUT``)."""

_enabled: ContextVar[bool] = ContextVar("sam_diffsr_fast_paths", default=True)
_filters: WeakKeyDictionary[nn.Conv2d, tuple[Tensor, int, Tensor]] = WeakKeyDictionary()
"""For each convolution: an alias of its weights, their version, and the filters made of them."""


@contextmanager
def disabled() -> Generator[None]:
    """Use plain PyTorch operations in this block and thread, for debugging and for exporters."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def mish(x: Tensor) -> Tensor:
    """Mish, ``x tanh(log(1 + exp(x)))``, of any shape and floating type; the fast path overwrites ``x``.

    It uses ``tanh(log(1 + e)) = 1 - 2 / ((1 + e)^2 + 1)``, which also holds where the square overflows, in
    float32, and takes about a seventh of PyTorch's time.
    """
    if _must_be_plain() or not _fits(x):
        return functional.mish(x)
    flat = x.permute(0, 2, 3, 1).view(-1)
    size = _PIECE * torch.get_num_threads()
    scratch = flat.new_empty((2, min(size, len(flat))), dtype=torch.float32)
    for start in range(0, len(flat), size):
        piece = flat[start : start + size]
        square, wide = scratch[:, : len(piece)]
        value = piece if piece.dtype == torch.float32 else wide.copy_(piece)
        torch.mul(value, _LOG2_E, out=square).exp2_().add_(1).square_().add_(1)
        value.addcdiv_(value, square, value=-2)
        if value is wide:
            piece.copy_(value)
    return x


def conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 convolution of stride 1 with bias that pads by reflection: ``(B, C, H, W)`` to ``(B, O, H, W)``.

    The fast path is Winograd's F(4, 3) along the rows ("Arithmetic complexity of computations", 1980; Lavin
    and Gray, arXiv 1509.09308, in both directions). Six input lines give four output lines: six sums of the
    input lines are convolved along the columns with six sums of the kernel's rows, where the plain way
    convolves three lines for each of the four. In one direction the rounding error stays about that of a
    plain convolution.
    """
    fits = not _must_be_plain() and _suits(conv) and _fits(x) and x.dtype == conv.weight.dtype
    if not fits or x.shape[-2] < _LINES:
        return conv(x)
    weight, bias = _filters_of(conv), conv.get_parameter("bias")
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect").contiguous(memory_format=torch.channels_last)
    out = x.new_empty((len(x), *x.shape[2:], conv.out_channels))
    for image, target in zip(padded.permute(0, 2, 3, 1), out, strict=True):
        _convolve(image, weight, bias, target)
    return out.permute(0, 3, 1, 2)


def _must_be_plain() -> bool:
    """Whether the surroundings need PyTorch's own operations."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return traced or not _enabled.get() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


def _fits(x: Tensor) -> bool:
    """Whether features have a type and the layout of the fast paths."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _suits(conv: nn.Conv2d) -> bool:
    """Whether the weights of a convolution allow its fast path, and gain by it."""
    weight = conv.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        _filters.pop(conv, None)
        return False
    return (
        min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and _cpu_gains()
        and not _rounds_products()
        and not weight.is_inference()  # an inference tensor does not tell when it changes
    )


def _cpu_gains() -> bool:
    """Whether fewer products save time: measured with AVX2 and MKL; with AVX-512 plain convolutions win."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and torch.backends.mkl.is_available()


def _rounds_products() -> bool:
    """Whether the user lets PyTorch round the factors of matrix products, as its convolutions never do."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # from 2.9 on, where the older call may raise
    if matmul is None:
        return torch.get_float32_matmul_precision() != "highest"
    return matmul.fp32_precision not in ("none", "ieee")


def _filters_of(conv: nn.Conv2d) -> Tensor:
    """The kernel as six sums of its rows for each tap along the columns, ``(3, 6, C, O)``.

    They are kept until the weights change. The alias keeps the weights' memory from being reused, so an equal
    address and version mean equal weights.
    """
    weight = conv.weight
    kept = _filters.get(conv)
    if kept is not None and kept[0].data_ptr() == weight.data_ptr() and kept[1] == weight._version:  # pyright: ignore[reportPrivateUsage]
        return kept[2]
    outputs, channels = weight.shape[:2]
    with torch.inference_mode(False), torch.no_grad():
        alias, version = weight.detach(), weight._version  # pyright: ignore[reportPrivateUsage]
        rows = alias.permute(2, 3, 1, 0).reshape(_TAPS, -1)
        sums = (alias.new_tensor(_FROM_KERNEL) @ rows).view(_SUMS, _TAPS, channels, outputs)
        filters = sums.transpose(0, 1).contiguous()
    _filters[conv] = (alias, version, filters)
    return filters


def _convolve(x: Tensor, filters: Tensor, bias: Tensor, out: Tensor) -> None:
    """Convolve a padded image ``(H + 2, W + 2, C)``, H >= 4, into ``(H, W, O)``, some lines at a time."""
    height, padded, channels = x.shape[0] - 2, x.shape[1], x.shape[2]
    width, outputs = padded - 2, filters.shape[3]
    # As many groups at a time as the cache holds, in steps of equal size.
    fitting = _PIECE * torch.get_num_threads() // (_SUMS * padded * max(channels, outputs))
    most = max(1, fitting, math.ceil(_MIN_ROWS / padded))
    groups = math.ceil(height / _LINES)
    groups = min(math.ceil(groups / math.ceil(groups / most)), height // _LINES)
    step = _LINES * groups
    # The lines of all groups, one after the other, are the rows of one matrix. Its shifted views are the
    # three taps; the two pixels between lines are computed and not used.
    pixels = groups * padded - 2
    to_sums, to_lines = x.new_tensor(_FROM_INPUT), x.new_tensor(_TO_OUTPUT).expand(groups, -1, -1)
    sums = x.new_empty(_SUMS, groups * padded, channels)
    shifted = [sums[:, tap : tap + pixels] for tap in range(_TAPS)]
    sums_of_group = sums.view(_SUMS, groups, -1).unbind(1)
    products = x.new_empty(_SUMS, pixels, outputs)
    products_of_group = products.as_strided(
        (groups, _SUMS, width * outputs), (padded * outputs, pixels * outputs, 1)
    )
    lines = x.view(height + 2, -1)
    for start in range(0, height, step):
        first = min(start, height - step)  # the last step may compute some lines again
        for group in range(groups):
            top = first + _LINES * group
            torch.mm(to_sums, lines[top : top + _SUMS], out=sums_of_group[group])
        torch.bmm(shifted[0], filters[0], out=products)
        for tap in range(1, _TAPS):
            products.baddbmm_(shifted[tap], filters[tap])
        products[_BIASED_SUM].add_(bias)
        target = out[first : first + step].view(groups, _LINES, width * outputs)
        torch.bmm(to_lines, products_of_group, out=target)
