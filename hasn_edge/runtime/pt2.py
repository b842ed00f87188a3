"""``.pt2`` files: programs of ``torch.export`` run by PyTorch, and packages that AOTInductor compiled."""

from __future__ import annotations

import io
import logging
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hasn_edge.errors import ArtifactError, UnsupportedError, call, say
from hasn_edge.hardware.host import vector_units
from hasn_edge.runtime.pytorch import ModuleSession, torch_device
from hasn_edge.spec import NetworkSpec, Precision

_log = logging.getLogger(__name__)


class ProgramSession(ModuleSession):
    """Runs what ``torch.export`` wrote. Float32 goes in and comes out whatever the precision inside.

    Loading runs no Python from the file. It is still a *program*, which can take any time and memory, so
    open only files that you made or trust: the sidecar's hash proves no more than that it is unchanged.

    Args:
        model: Path of the file, or its bytes.
        spec: The network, as the sidecar states it.
        precision: Number format inside, as the sidecar states it.
        least_side: Least height and width that the program takes, as the sidecar states it.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        threads: Threads of PyTorch's CPU kernels, a setting of the whole process; ``None`` leaves it alone.

    Raises:
        ArtifactError: the file is missing or no complete program.
        UnsupportedError: no such device here.
    """

    backend = "pt2"

    def __init__(
        self,
        model: Path | bytes,
        spec: NetworkSpec,
        *,
        precision: Precision = Precision.FP32,
        least_side: int,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        target = torch_device(device, backend=self.backend)
        super().__init__(self._load(model, target), target, threads, spec, precision=precision)
        self.smallest = (least_side, least_side)

    def _load(self, model: Path | bytes, target: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        def load(source: Path | bytes) -> Callable[[torch.Tensor], torch.Tensor]:
            from torch.export.passes import move_to_device_pass

            program = torch.export.load(io.BytesIO(source) if isinstance(source, bytes) else str(source))
            return move_to_device_pass(program, str(target)).module()

        return _opened(model, load, format="pt2")


class CompiledSession(ProgramSession):
    """Runs a package that AOTInductor compiled on this kind of machine.

    It is machine code: open only files that you made or trust. One that was compiled for another PyTorch,
    other vector units or another GPU is refused before its code runs.

    Args:
        model: Path of the package, or its bytes.
        compiled_for: :func:`package_host` of the machine that compiled it, as the sidecar states it.
        device: What it was compiled for.
        options: As for :class:`ProgramSession`.

    Raises:
        UnsupportedError: it was compiled for another machine.
    """

    backend = "aoti"

    def __init__(
        self, model: Path | bytes, spec: NetworkSpec, *, compiled_for: str, device: str, **options: Any
    ) -> None:
        torch_device(device, backend=self.backend)
        here = package_host(device)
        if here != compiled_for:
            name = "the package" if isinstance(model, bytes) else str(model)
            raise UnsupportedError(
                f"{name}: compiled for {compiled_for}, and this is {here}",
                call("export", format="aoti"),
                say("use a file of format pt2, which runs on any machine"),
            )
        super().__init__(model, spec, device=device, **options)

    def _load(self, model: Path | bytes, target: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        def load(source: Path | bytes) -> Callable[[torch.Tensor], torch.Tensor]:
            if isinstance(source, Path):
                package: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.aoti_load_package(
                    str(source)
                )
                return package
            with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
                file.write(source)
                file.flush()
                return load(Path(file.name))

        return _opened(model, load, format="aoti")


def package_host(device: str) -> str:
    """Return what decides whether a compiled package runs here: PyTorch, and vector units or GPU.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    """
    if device == "cpu":
        unit = " ".join((platform.machine(), *vector_units()))
    else:
        unit = torch.cuda.get_device_name(device)
    return f"PyTorch {torch.__version__}, {unit}"


def _opened(
    model: Path | bytes,
    load: Callable[[Path | bytes], Callable[[torch.Tensor], torch.Tensor]],
    *,
    format: str,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load a file with one message for all that PyTorch says of one that is damaged."""
    name = format if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise ArtifactError(f"{name}: no such file", call("export", format=format))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(model)
    except Exception as exc:  # of zip, JSON, and PyTorch's own kinds
        _log.debug("%s: %s", name, exc)
        raise ArtifactError(
            f"{name}: PyTorch {torch.__version__} does not read it; it is damaged, or of another version",
            call("export", format=format),
        ) from exc
