"""Exports a model to ONNX, for programs that run it without torch.

Two files: the encoder, once per image, and the denoiser, once per step. The loop between them is the
caller's; ``examples/08_onnx_upscale.py`` writes it in NumPy. Needs the extra ``onnx``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from sam_diffsr.config import to_dict
from sam_diffsr.diffusion import NoiseSchedule
from sam_diffsr.errors import MissingDependencyError, NumericalError
from sam_diffsr.files import atomic_path, writing
from sam_diffsr.models import DiffSR
from sam_diffsr.models.fast import disabled
from sam_diffsr.pipeline.config import ResolverConfig

OPSET = 18
"""Version of the ONNX operators."""
METADATA_KEY = "sam_diffsr"
"""Entry of both files' metadata with a JSON object: the config, and the schedule's ``alpha_bars``."""

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-2}
"""Largest difference from torch, relative to the largest number where that is above 1."""


class _Part(nn.Module):
    """Half of a model, float32 outside."""

    def __init__(self, model: DiffSR) -> None:
        super().__init__()
        self.model, self.dtype = model, next(model.parameters()).dtype


class _Encoder(_Part):
    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        chosen, trunk = self.model.encoder.features(lr.to(self.dtype))
        projected = self.model.denoiser.project_condition(chosen)
        return projected.float(), self.model.encoder.image(trunk).clamp(0, 1).float()


class _Denoiser(_Part):
    def forward(self, xt: Tensor, t: Tensor, projected: Tensor) -> tuple[Tensor]:
        return (self.model.denoiser(xt.to(self.dtype), t, projected.to(self.dtype)).float(),)


def export_onnx(
    model: DiffSR, config: ResolverConfig, folder: str | os.PathLike[str], *, half: bool = False
) -> float:
    """Write ``encoder.onnx`` and ``denoiser.onnx``, and compare both with torch.

    Batch, height and width are dynamic. The encoder takes ``lr (B, 3, h, w)`` with h, w >= 2 and gives
    ``projected`` and ``image``. The denoiser takes ``xt``, ``t (B,)`` int64 and ``projected`` and gives
    ``eps``; height and width are multiples of ``config.model.denoiser.stride`` and at least twice that. All
    other numbers are float32; ``half`` stores and computes in float16. The folder is created if needed.

    Returns:
        The largest difference from torch, at odd and even sizes.

    Raises:
        MissingDependencyError: onnxscript or onnxruntime is not installed.
        NumericalError: the exported networks differ from torch.
        OutputError: the folder cannot be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingDependencyError(
            "the export needs onnxscript and onnxruntime: pip install 'sam-diffsr[onnx]'"
        ) from error
    dtype = torch.float16 if half else torch.float32
    model = copy.deepcopy(model).to(device="cpu", dtype=dtype)
    model.to(memory_format=torch.contiguous_format)
    stride, channels = config.model.denoiser.stride, config.model.denoiser.channels[0]
    alpha_bars = NoiseSchedule.from_config(config.schedule).alpha_bars
    metadata = json.dumps({**to_dict(config), "alpha_bars": alpha_bars})

    def inputs_of(name: str, batch: int, rows: int, columns: int) -> dict[str, Tensor]:
        if name == "encoder":
            return {"lr": torch.rand(batch, 3, rows, columns)}
        xt, projected = (torch.randn(batch, n, stride * rows, stride * columns) for n in (3, channels))
        return {"xt": xt, "t": torch.arange(batch) % config.schedule.timesteps, "projected": projected}

    batch, rows, columns = Dim("batch"), Dim("rows", min=2), Dim("columns", min=2)
    lr, hr = {0: batch, 2: rows, 3: columns}, {0: batch, 2: stride * rows, 3: stride * columns}
    parts = {
        "encoder": (_Encoder(model).eval(), {"lr": lr}, ["projected", "image"]),
        "denoiser": (_Denoiser(model).eval(), {"xt": hr, "t": {0: batch}, "projected": hr}, ["eps"]),
    }
    with (
        writing("the ONNX files", folder, advice="choose another folder"),
        contextlib.ExitStack() as files,
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        disabled(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),  # of torch's exporter
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        largest = 0.0
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, (module, shapes, outputs) in parts.items():
            example = inputs_of(name, 2, 6, 10)
            program: Any = torch.onnx.export(
                module,
                kwargs=example,
                input_names=list(example),
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            program.model.metadata_props[METADATA_KEY] = metadata
            temporary = files.enter_context(atomic_path(Path(folder) / f"{name}.onnx"))
            program.save(temporary, external_data=False)
            session: Any = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
            for inputs in (inputs_of(name, 1, 5, 7), inputs_of(name, 3, 4, 6)):
                results = session.run(None, {key: value.numpy() for key, value in inputs.items()})
                for result, wanted in zip(results, module(**inputs), strict=True):
                    difference = float((torch.from_numpy(result) - wanted).abs().max())
                    if not difference <= _TOLERANCE[dtype] * max(1.0, float(wanted.abs().max())):
                        raise NumericalError(
                            f"{name}.onnx differs from torch by {difference:.2g}; try other versions of "
                            "onnxscript and onnxruntime"
                        )
                    largest = max(largest, difference)
    return largest
