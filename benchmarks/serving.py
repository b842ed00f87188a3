"""Images a second through a Triton server against the session alone, in rounds on the same machine.

    python benchmarks/serving.py FILE --triton .venv/triton          # starts the wheel's server, as tests do
    hasn-edge export --format triton --backend python --artifact FILE --name net      # or start one yourself
    python benchmarks/serving.py FILE --model net --url localhost:8001

Each round times the file in a session of this process, one image after the other, and then the same number of
images by several clients at once over gRPC. The ratio is taken within a round. Prints a table and writes it,
with every raw sample, to benchmarks/results/.
"""

from __future__ import annotations

import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
from result_files import origin, publish

from hasn_edge import load_artifact, open_session
from hasn_edge.cli.common import SIZE
from hasn_edge.exporters.triton.pbtxt import message_text, parameter_fields
from hasn_edge.exporters.triton.repository import triton_repository
from hasn_edge.hardware.host import describe_host

RESULTS = Path(__file__).with_name("results")


def ask(client: Any, model: str, x: np.ndarray) -> np.ndarray:
    """Return what the server makes of a batch."""
    import tritonclient.grpc as triton

    tensor = triton.InferInput("input", list(x.shape), {"uint8": "UINT8", "float32": "FP32"}[x.dtype.name])
    tensor.set_data_from_numpy(x)
    answer: np.ndarray = client.infer(model, [tensor], client_timeout=600).as_numpy("output")
    return answer


@contextmanager
def served(file: Path, wheel: Path, model: str, parameters: dict[str, str]) -> Iterator[str]:
    """Serve a file by the Python backend of the server in the wheel ``nvidia-pytriton``; its gRPC address."""
    os.environ["HASN_EDGE_TRITON"] = str(wheel)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.triton_server import TritonServer, find_wheel

    if find_wheel() != wheel:
        raise click.ClickException(
            f"no Triton in {wheel}; pip install --no-deps --target {wheel} nvidia-pytriton"
        )
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        triton_repository(load_artifact(file), models, name=model, backend="python")
        with (models / model / "config.pbtxt").open("a", encoding="utf-8") as config:
            config.write("\n" + message_text(parameter_fields(parameters)))
        running = TritonServer.started(models, Path(folder, "server"))
        try:
            yield f"localhost:{running.grpc}"
        finally:
            running.stop()


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="net", show_default=True, help="What the server calls it.")
@click.option("--url", default="localhost:8001", show_default=True, help="The server's gRPC address.")
@click.option(
    "--triton",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of the wheel nvidia-pytriton: its server is started, with FILE alone, and stopped again.",
)
@click.option("--backend", default=None, help="Of the session, where it is not the file's own.")
@click.option("--threads", type=int, default=None, help="CPU threads of the session.")
@click.option("--size", default="320x180", show_default=True)
@click.option("--images", default=12, show_default=True, help="In each part of a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--clients", default=4, show_default=True, help="At once.")
@click.option("--name", default="cpu", show_default=True, help="Of the result's file.")
def main(
    file: Path, url: str, triton: Path | None, backend: str | None, threads: int | None, **how: Any
) -> None:
    """Measure a server, which serves FILE as MODEL."""
    record = load_artifact(file).details.autotune
    backend = backend or (record.backend if record else None)  # what the repository states too
    asked = {"session_backend": backend, "session_threads": threads}
    parameters = {key: str(value) for key, value in asked.items() if value is not None}
    server = served(file, triton.resolve(), how["model"], parameters) if triton else nullcontext(url)
    with server as address:
        measure(file, address, backend, threads, **how)


def measure(
    file: Path,
    url: str,
    backend: str | None,
    threads: int | None,
    *,
    model: str,
    size: str,
    images: int,
    rounds: int,
    clients: int,
    name: str,
) -> None:
    """Measure, print, write."""
    import tritonclient.grpc as triton

    height, width = SIZE(size)
    rng = np.random.default_rng(0)
    session = open_session(file, threads=threads, backend=backend)
    shape = (1, height, width, 3) if session.pixels else (1, 3, height, width)
    given = [
        rng.integers(0, 256, shape, np.uint8) if session.pixels else rng.random(shape, np.float32)
        for _ in range(images)
    ]
    run = session.run_pixels if session.pixels else session.run
    what = f"{session.backend} {session.number_format}"
    samples: list[dict[str, float]] = []
    with session, triton.InferenceServerClient(url) as client, ThreadPoolExecutor(clients) as pool:
        difference = float(np.abs(run(given[0]).astype(np.float32) - ask(client, model, given[0])).max())
        for _ in range(rounds):
            begin = time.perf_counter()
            for x in given:
                run(x)
            middle = time.perf_counter()
            list(pool.map(lambda x: ask(client, model, x), given))
            end = time.perf_counter()
            samples.append({"session": images / (middle - begin), "server": images / (end - middle)})
    ratios = [sample["server"] / sample["session"] for sample in samples]
    medians = {what: statistics.median(sample[what] for sample in samples) for what in ("session", "server")}
    facts = describe_host()
    lines = [
        f"# Serving {file.name} at {size}, {what}\n",
        f"{images} images a part, {rounds} rounds, {clients} clients over gRPC; largest difference of the "
        f"answers {difference:.2g}.\n",
        "| | images/s, median |",
        "|---|---|",
        f"| the session alone | {medians['session']:.2f} |",
        f"| through the server | {medians['server']:.2f} |",
        f"\nRatio, median of {rounds} rounds: **{statistics.median(ratios):.2f}** "
        f"({min(ratios):.2f} to {max(ratios):.2f})\n",
        *(f"- {note}" for note in origin(machine=facts)),
    ]
    record = {"samples": samples, "difference": difference, "host": facts, "size": size, "clients": clients}
    publish("\n".join(lines) + "\n", RESULTS, f"serving_{name}_{datetime.date.today():%Y%m}", record)


if __name__ == "__main__":
    main()
