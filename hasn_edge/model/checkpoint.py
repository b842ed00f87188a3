"""Weights files: safetensors and BasicSR-style ``.pth``, read without executing anything in them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from hasn_edge.errors import CheckpointError, ConfigError, HasnEdgeError, UnsupportedError, listed, omit, say
from hasn_edge.files import file_sha256, writing
from hasn_edge.model.hasn import HASN
from hasn_edge.model.probe import probe_spec
from hasn_edge.model.weights_file import ENDS, WeightsFile, read_weights
from hasn_edge.spec import SPEC_KEY, ModelSpec

MAX_BYTES = 1 << 30
"""Largest weights file that is opened; the published network's is 4 MB."""

PROVENANCE_KEY = "hasn_edge.provenance"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights with the network they belong to."""

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    """Float32 tensors under the published parameter names."""
    sha256: str
    """Hash of the file."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How the weights were trained, where the file has it."""

    def model(self) -> HASN:
        """Return the network with these weights, in evaluation mode.

        Raises:
            CheckpointError: a tensor is missing, left over or of another shape; each is named.
        """
        _refuse_misfits(self.spec, self.weights)
        model = HASN(self.spec)
        model.load_state_dict(dict(self.weights))
        return model.eval().requires_grad_(False)


def load_checkpoint(path: Path, *, spec: ModelSpec | None = None) -> Checkpoint:
    """Read a ``.safetensors`` or ``.pth`` file of the HASN family.

    Whatever wrapped the tensors is taken off: see :func:`hasn_edge.model.weights_file.read_weights`. Only
    tensors are unpickled.

    Args:
        path: The file.
        spec: The network; what the file states where ``None``. Where it states nothing, widths and counts
            are read off the tensors' shapes, and what shapes do not show (activation, gate, skip, residual)
            off the images that the candidates give: see :func:`hasn_edge.model.probe.probe_spec`.

    Raises:
        CheckpointError: the file is missing, too large, truncated, holds anything but tensors, holds
            values that are not finite, belongs to another network, or does not show to which.
    """
    path = Path(path)
    read = read_file(path)
    weights = read.tensors
    try:
        refuse_unusual(weights)
        stated = read.metadata.get(SPEC_KEY)
        if stated is not None:
            own = ModelSpec.from_dict(json.loads(stated))
            if spec not in (None, own):
                raise CheckpointError("the file states another network than the one asked for", omit("spec"))
            spec = own
        provenance = json.loads(read.metadata.get(PROVENANCE_KEY, "{}"))
        fitting = infer_spec(weights) if spec is None else spec
        _refuse_misfits(fitting, weights)
        refuse_not_finite(weights)
        spec = probe_spec(fitting, weights) if spec is None else spec
    except (CheckpointError, ConfigError, ValueError, TypeError, RecursionError) as exc:
        message, cures = (exc.message, exc.cures) if isinstance(exc, HasnEdgeError) else (str(exc), ())
        raise CheckpointError(f"{path}: {message}", *cures) from exc
    return Checkpoint(
        spec=spec,
        weights={name: tensor.float().contiguous() for name, tensor in weights.items()},
        sha256=file_sha256(path),
        provenance=provenance,
    )


def read_file(path: Path, ends: tuple[str, str] = ENDS) -> WeightsFile:
    """Read the tensors of a file of a reasonable size; see :func:`hasn_edge.model.weights_file.read_weights`.

    Raises:
        CheckpointError: no such file, one that is too large, or no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes; weights of this family are a few MB, limit {MAX_BYTES}")
    return read_weights(path, ends)


def refuse_not_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of a run that diverged."""
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{name} has values that are not finite numbers; the training run diverged or the file is "
                "damaged",
                say("use an earlier checkpoint"),
            )


def refuse_unusual(weights: Mapping[str, Tensor]) -> None:
    """Refuse what has a shape but not its numbers in memory, one real number each, in reasonable number."""
    for name, tensor in weights.items():
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not dense or tensor.is_complex() or tensor.is_quantized:
            kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}, {tensor.device.type}"
            raise CheckpointError(
                f"{name} is no plain tensor of real numbers ({kind})", say("save it as float32")
            )
    values = sum(tensor.numel() for tensor in weights.values())
    if values > MAX_BYTES:
        raise CheckpointError(f"its tensors have {values} values; weights of this family have less than 10^9")


def _refuse_misfits(spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):  # shapes only: a spec may ask for more than the memory holds
        expected = HASN(spec).state_dict()
    refuse_misfits(spec.arch, expected, weights)


def refuse_misfits(arch: str, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of a network, by name and shape; the first four are named."""
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in expected]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"weights do not fit {arch}: {listed(problems, 4, '; ')}")


def save_checkpoint(path: Path, model: HASN, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write ``model``'s weights, spec and provenance as ``.safetensors``, whole or not at all.

    Raises:
        OutputError: the file could not be written.
        UnsupportedError: the model is fused.
    """
    _refuse_fused(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        SPEC_KEY: json.dumps(model.spec.to_dict(), sort_keys=True),
        PROVENANCE_KEY: json.dumps(dict(provenance or {}), sort_keys=True),
    }
    with writing(Path(path)) as temporary:
        # Not save_file: it replaces the file by one that only its owner may read.
        temporary.write_bytes(save(tensors, metadata=metadata))


def save_pth(path: Path, model: HASN, *, ema: Mapping[str, Tensor] | None = None) -> None:
    """Write a BasicSR-style ``.pth`` with ``params`` and ``params_ema`` for other projects to read.

    The spec goes beside them: what shapes do not show, such as ``residual``, would be lost otherwise.

    Raises:
        OutputError: the file could not be written.
        UnsupportedError: the model is fused.
    """
    _refuse_fused(model)
    params, averaged = (
        {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        for state in (model.state_dict(), model.state_dict() if ema is None else ema)
    )
    spec = json.dumps(model.spec.to_dict(), sort_keys=True)
    content = torch_bytes({"params": params, "params_ema": averaged, SPEC_KEY: spec})
    with writing(Path(path)) as temporary:
        temporary.write_bytes(content)


def torch_bytes(value: Any) -> memoryview:
    """Return what ``torch.save`` makes of ``value``.

    Given the file itself, PyTorch raises a RuntimeError that names no reason where the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


def _refuse_fused(model: HASN) -> None:
    # Fusion is not undone by loading: the file would belong to no network.
    if getattr(model, "fused", ()):
        raise UnsupportedError(
            "this network is fused, and checkpoints hold unfused networks",
            say("save the network that it came from"),
        )


def infer_spec(weights: Mapping[str, Tensor]) -> ModelSpec:
    """Read the network's widths and counts off the shapes of its tensors.

    Raises:
        CheckpointError: the tensors are not those of a HASN; the first names found are listed.
    """
    try:
        return ModelSpec.from_dict(_fields(weights))
    except (LookupError, ValueError, ZeroDivisionError) as exc:
        some = ", ".join(sorted(weights)[:4]) or "no tensors"
        raise CheckpointError(
            f"not a HASN checkpoint: its tensors are {some}, ...; expected conv_1.weight, block_1.*, "
            "conv_2.weight, upsampler.0.weight"
        ) from exc


def _fields(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    features, channels = weights["conv_1.weight"].shape[:2]
    fields: dict[str, Any] = {
        "scale": round((weights["upsampler.0.weight"].shape[0] / channels) ** 0.5),
        "channels": channels,
        "features": features,
        "blocks": len({name.split(".")[0] for name in weights if name.startswith("block_")}),
        "expansion": weights["block_1.f1.conv.weight"].shape[0] // features,
        "kernel_size": weights["block_1.dwconv.conv.weight"].shape[-1],
        "norm": "block_1.ln.weight" in weights,
        "esa": "block_1.esa.conv1.weight" in weights,
        "cab": "block_1.cab.cab.0.weight" in weights,
    }
    if fields["esa"]:
        fields["esa_channels"] = weights["block_1.esa.conv1.weight"].shape[0]
    if fields["cab"]:
        fields["cab_compression"] = _divisor(features, weights["block_1.cab.cab.0.weight"].shape[0], 3)
        squeezed = weights["block_1.cab.cab.3.attention.1.weight"].shape[0]
        fields["cab_reduction"] = _divisor(features, squeezed, 30)
    return fields


def _divisor(features: int, channels: int, published: int) -> int:
    if max(1, features // published) == channels:
        return published
    return max(1, features // max(1, channels))
