"""``.pt2`` files from a network: what ``torch.export`` writes, and what AOTInductor compiles of it."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hasn_edge.errors import BuildError, first_line, say, use
from hasn_edge.exporters.deployable import deployed
from hasn_edge.spec import Precision

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from hasn_edge.spec import ModelSpec


def least_side(spec: ModelSpec) -> int:
    """Return the least height and width in pixels that an exported program of this network takes.

    ``torch.export`` treats a dimension of one element as a constant. ESA's coarse grid, a convolution of
    stride 2 and a 7x7 max-pool of stride 3, has two elements from 21 pixels on; the network itself takes 15.
    """
    return 21 if spec.esa else 2


def program_from_model(
    model: nn.Module, *, precision: Precision = Precision.FP32, device: str = "cpu"
) -> ExportedProgram:
    """Return ``model`` as a program that needs PyTorch and none of our code; the model stays as it was.

    It takes ``(N, channels, H, W)`` float32 RGB in [0, 1] of any batch and any size from :func:`least_side`,
    and returns float32, ``scale`` times as high and wide, not clamped.

    Args:
        model: A :class:`~hasn_edge.model.hasn.HASN`, fused or not, with ``spec``.
        precision: FP32, or FP16 as in :func:`hasn_edge.exporters.deployable.deployed`.
        device: ``"cpu"`` or ``"cuda"``: where its weights are when it is loaded.

    Raises:
        UnsupportedError: another precision; INT8 needs ONNX.
        BuildError: this PyTorch does not export the network.
    """
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    module = deployed(model, precision=precision, what="torch.export").to(device)
    least = least_side(spec)
    # Odd sides and two images: none of them is taken for a constant.
    example = torch.zeros(2, spec.channels, least + 8, least + 17, device=device)
    dim = torch.export.Dim
    dims = {0: dim("batch", min=1), 2: dim("height", min=least), 3: dim("width", min=least)}
    # FP16's memory layout is checked in a way that no range of sizes can promise before the sizes are known.
    deferred: dict[str, Any] = (
        {"prefer_deferred_runtime_asserts_over_guards": True} if precision is Precision.FP16 else {}
    )
    with _errors("export"), torch.no_grad():
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes=(dims,),
            strict=False,
            **deferred,
        )


def program_bytes(program: ExportedProgram) -> bytes:
    """Return what a ``.pt2`` file of ``program`` holds."""
    buffer = io.BytesIO()
    with _errors("save"):
        torch.export.save(program, buffer)
    return buffer.getvalue()


def compiled_bytes(program: ExportedProgram) -> bytes:
    """Compile ``program`` by AOTInductor for this machine and return the package; takes a minute or more.

    The package is machine code, for the device that the program's weights are on and for the vector units of
    this CPU; it needs PyTorch of this version to be loaded.

    Raises:
        BuildError: there is no C++ compiler, or it failed; the message carries its own.
    """
    with tempfile.TemporaryDirectory(prefix="hasn-edge-aoti-") as folder, _errors("compile"):
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder, "package.pt2"))
        )
        return Path(path).read_bytes()


@contextmanager
def _errors(verb: str) -> Iterator[None]:
    """Let PyTorch's many kinds of errors come as one of ours; its deprecations are its own affair."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as exc:  # torch.export and Inductor raise errors of a dozen modules
        raise BuildError(
            f"PyTorch {torch.__version__} cannot {verb} this network: {first_line(exc)}",
            use(format="onnx"),
            *([say("install g++, which AOTInductor compiles with")] if verb == "compile" else ()),
        ) from exc
