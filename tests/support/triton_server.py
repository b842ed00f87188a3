"""NVIDIA's Triton Inference Server on a CPU, as the wheel ``nvidia-pytriton`` brings it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def find_wheel() -> Path | None:
    """Return the folder that the wheel was installed into: beside this Python's packages or among them."""
    folders = [
        Path(os.environ.get("HASN_EDGE_TRITON", "none")),
        Path(sys.prefix, "triton"),
        *map(Path, sys.path),
    ]
    return next((folder for folder in folders if (folder / "pytriton/tritonserver").is_dir()), None)


class TritonServer:
    """A running server of one model repository.

    Args:
        models: The repository.
        folder: Where it may write.
    """

    def __init__(self, models: Path, folder: Path) -> None:
        wheel = find_wheel()
        if wheel is None:
            pytest.skip("Triton is not here: pip install --no-deps --target .venv/triton nvidia-pytriton")
        server = wheel / "pytriton/tritonserver"
        stub = (
            server
            / f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
        )
        if not stub.is_file():
            pytest.skip(f"this wheel of Triton has no backend for Python {sys.version_info[:2]}")
        # The backend looks for the stub of its Python beside itself.
        folder.mkdir(parents=True, exist_ok=True)
        backends = folder / "backends"
        shutil.copytree(server / "backends", backends)
        shutil.copy(stub, backends / "python")
        self.http, self.grpc = _free_port(), _free_port()
        libraries = [str(wheel / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)]),
        }
        self.log = folder / "server.log"
        binary = server / "bin/tritonserver"
        binary.chmod(0o755)
        (backends / "python" / stub.name).chmod(0o755)
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [
                    str(binary),
                    f"--model-repository={models}",
                    f"--backend-directory={backends}",
                    f"--http-port={self.http}",
                    f"--grpc-port={self.grpc}",
                    "--allow-metrics=false",
                    "--model-control-mode=explicit",
                    "--load-model=*",
                    "--model-load-thread-count=1",
                    "--http-address=127.0.0.1",
                    "--grpc-address=127.0.0.1",
                ],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    @classmethod
    def started(cls, models: Path, folder: Path) -> TritonServer:
        """Return a server that is ready.

        On a busy machine the Python backend at times meets a lock that its child has not made yet, and the
        server ends before it is ready (seen with 2.51). Then, and only then, it is started again.
        """
        for attempt in range(5):
            running = cls(models, folder / str(attempt))
            try:
                running.wait()
            except AssertionError as exc:
                running.stop()
                if "boost::interprocess::lock_exception" not in str(exc):
                    raise
                last = exc
            else:
                return running
        raise last

    def wait(self, seconds: float = 120) -> None:
        """Wait until the server is ready."""
        end = time.monotonic() + seconds
        while not self.ready():
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < end, self.log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)

    def ready(self) -> bool:
        """Whether the server answers that it is ready."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # python -m tests.support.triton_server MODELS: serve until interrupted
    import signal
    import tempfile

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the server ends with this process
    with tempfile.TemporaryDirectory() as working:
        running = TritonServer.started(Path(sys.argv[1]), Path(working))
        try:
            print(f"HTTP on {running.http}, gRPC on {running.grpc}", flush=True)  # noqa: T201
            running.process.wait()
        finally:
            running.stop()
