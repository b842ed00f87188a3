"""TorchScript files: the exported network in PyTorch's interpreter, on CPU or CUDA."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import torch

from hasn_edge.errors import ArtifactError, call
from hasn_edge.exporters.torchscript import quiet_jit
from hasn_edge.runtime.pytorch import ModuleSession, torch_device
from hasn_edge.spec import NetworkSpec, Precision

_log = logging.getLogger(__name__)


class TorchScriptSession(ModuleSession):
    """Runs a ``.ts`` file. Float32 goes in and comes out whatever the precision inside.

    Loading runs no Python from the file: TorchScript is a language of its own, read by PyTorch's C++ parser.
    It is still a *program*, which can take any time and memory, so open only files that you made or trust;
    the sidecar's hash proves that a file is unchanged, not who made it.

    The first two calls of each input size are slower, because PyTorch profiles and specialises the program.

    Args:
        model: Path of the file, or its bytes.
        spec: The network, as the sidecar states it.
        precision: Number format inside, as the sidecar states it.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        size: The one (height, width) that the file takes; ``None`` for any.
        threads: Threads of PyTorch's CPU kernels, a setting of the whole process; ``None`` leaves it alone.

    Raises:
        ArtifactError: the file is missing or no complete TorchScript file.
        UnsupportedError: no such device here.
    """

    backend = "torchscript"

    def __init__(
        self,
        model: Path | bytes,
        spec: NetworkSpec,
        *,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
    ) -> None:
        target = torch_device(device, backend=self.backend)
        super().__init__(_load(model, target), target, threads, spec, precision=precision, size=size)


def _load(model: Path | bytes, device: torch.device) -> torch.jit.ScriptModule:
    name = "TorchScript" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise ArtifactError(f"{name}: no such file", call("export", format="torchscript"))
    source = io.BytesIO(model) if isinstance(model, bytes) else str(model)
    try:
        with quiet_jit():
            module: torch.jit.ScriptModule = torch.jit.load(source, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as exc:
        # PyTorch's own words are five sentences on an archive's inside; the log has them.
        _log.debug("%s: %s", name, exc)
        raise ArtifactError(
            f"{name}: not a complete TorchScript file; it is damaged or cut off",
            call("export", format="torchscript"),
        ) from exc
    module.eval()
    return module
