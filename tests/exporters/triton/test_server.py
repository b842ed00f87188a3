"""The real server on a CPU: right pixels over HTTP and gRPC whatever is asked, and a server that lives."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hasn_edge.artifact import publish
from hasn_edge.exporters.triton.from_artifact import QUEUE_DELAY_US
from hasn_edge.exporters.triton.repository import triton_repository
from hasn_edge.sidecar import Kind
from hasn_edge.spec import ModelSpec, Precision
from tests.support.samples import details_of
from tests.support.triton_server import TritonServer
from tests.support.web_rig import until

torch = pytest.importorskip("torch")
grpc = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient, an extra of dev")

pytestmark = [pytest.mark.triton, pytest.mark.slow]

SPEC = ModelSpec(features=8, blocks=1, esa_channels=4)
NAMES = {"float32": "FP32", "float64": "FP64", "uint8": "UINT8"}


def network(seed: int = 0):
    from hasn_edge.model.hasn import HASN

    torch.manual_seed(seed)
    return HASN(SPEC).eval().requires_grad_(False)


def add(models: Path, files: Path, *, name: str, seed: int = 0, pixels: bool = False) -> None:
    """Add a network as a version of a served model."""
    from hasn_edge.exporters.onnx import onnx_from_model
    from hasn_edge.exporters.uint8_io import with_pixels

    graph = onnx_from_model(network(seed), batch=None, simplify=False)
    artifact = publish(
        (with_pixels(graph) if pixels else graph).SerializeToString(),
        files / f"{name}-{seed}.onnx",
        spec=SPEC,
        precision=Precision.FP32,
        source="ab" * 32,
        details=details_of(Kind.ONNX, pixels=pixels, batch=[1, 8]),
    )
    triton_repository(artifact, models, name=name, backend="python")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    add(folder / "models", folder / "files", name="net")
    add(folder / "models", folder / "files", name="pixels", pixels=True)
    add(folder / "models", folder / "files", name="patient")
    config = folder / "models" / "patient" / "config.pbtxt"
    text = config.read_text()
    assert f": {QUEUE_DELAY_US}\n" in text
    config.write_text(text.replace(f": {QUEUE_DELAY_US}\n", ": 500000\n"))  # however slow the clients are
    return folder / "models"


@pytest.fixture(scope="module")
def server(models, tmp_path_factory) -> Iterator[TritonServer]:
    running = TritonServer.started(models, tmp_path_factory.mktemp("server"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(server):
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as opened:
        yield opened
    assert server.process.poll() is None, "the server ended"


def ask(client, x: np.ndarray, *, model: str = "net", version: str = "") -> np.ndarray:
    tensor = grpc.InferInput("input", list(x.shape), NAMES[x.dtype.name])
    tensor.set_data_from_numpy(x)
    return client.infer(model, [tensor], model_version=version, client_timeout=300).as_numpy("output")


def ask_http(server: TritonServer, x: np.ndarray) -> np.ndarray:
    """Ask in the plain JSON of the protocol, as any client without NVIDIA's packages does."""
    given = {"name": "input", "shape": x.shape, "datatype": NAMES[x.dtype.name], "data": x.ravel().tolist()}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http}/v2/models/net/infer", json.dumps({"inputs": [given]}).encode()
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        (output,) = json.loads(answer.read())["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def upscaled(x_NCHW: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return what PyTorch computes of an image whose last row and column are repeated up to 15 pixels."""
    height, width = x_NCHW.shape[2:]
    more = (0, max(0, 15 - width), 0, max(0, 15 - height))
    x = torch.nn.functional.pad(torch.from_numpy(x_NCHW), more, mode="replicate")
    return network(seed)(x)[:, :, : 4 * height, : 4 * width].numpy()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (15, 15), (40, 9), (33, 47)])
def test_any_size_over_grpc_and_http(server, client, size):
    x = noise(1, 3, *size)
    expected = upscaled(x)
    np.testing.assert_allclose(ask(client, x), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ask_http(server, x), expected, rtol=0, atol=1e-5)


def test_pixels(client):
    levels = np.random.default_rng(1).integers(0, 256, (2, 12, 30, 3), np.uint8)
    y = ask(client, levels, model="pixels")
    exact = 255 * np.clip(upscaled(levels.transpose(0, 3, 1, 2) / np.float32(255)), 0, 1)
    assert y.dtype == np.uint8
    assert np.abs(y - exact.transpose(0, 2, 3, 1)).max() <= 0.51


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (noise(1, 4, 16, 16), "shape"),
        (noise(3, 16, 16), "shape"),
        (noise(9, 3, 16, 16), "batch"),
        (noise(1, 3, 16, 16).astype(np.float64), "FP64|data-?type"),
        (np.full((1, 3, 16, 16), np.nan, np.float32), "not finite"),
        (255 * noise(1, 3, 16, 16), "divide by 255"),
        (noise(1, 3, 0, 16), "at least one pixel|shape|empty"),
    ],
)
def test_what_is_wrong_is_answered_and_the_next_request_is_right(client, x, said):
    with pytest.raises(grpc.InferenceServerException, match=rf"(?i){said}"):
        ask(client, x)
    good = noise(1, 3, 16, 17)
    np.testing.assert_allclose(ask(client, good), upscaled(good), rtol=0, atol=1e-5)


def test_many_clients_at_once_are_joined_into_batches(client):
    # One size after the other: the server closes a batch when an image of another size arrives.
    images = [noise(1, 3, *((24, 20), (9, 40))[i // 16], seed=i) for i in range(32)]

    def statistics():
        return client.get_inference_statistics("patient").model_stats[0]

    before = statistics()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda x: ask(client, x, model="patient"), images))
    # The server counts a batch after it has answered.
    until(lambda: statistics().inference_count - before.inference_count >= 32)
    after = statistics()
    for x, y in zip(images, answers, strict=True):
        np.testing.assert_allclose(y, upscaled(x), rtol=0, atol=1e-5)
    assert after.inference_count - before.inference_count == 32
    assert after.execution_count - before.execution_count < 32


def test_a_bad_image_does_not_spoil_those_it_was_joined_with(client):
    good = [noise(1, 3, 16, 18, seed=i) for i in range(12)]
    bad = np.full((1, 3, 16, 18), np.inf, np.float32)

    def answer(x):
        try:
            return ask(client, x)
        except grpc.InferenceServerException as exc:
            return str(exc)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(answer, [*good[:6], bad, *good[6:]]))
    assert "not finite" in answers.pop(6)
    for x, y in zip(good, answers, strict=True):
        np.testing.assert_allclose(y, upscaled(x), rtol=0, atol=1e-5)


def test_a_further_version_is_taken_up_and_both_may_be_served(models, client):
    x = noise(1, 3, 20, 22)
    add(models, models.parent / "files", name="net", seed=1)
    np.testing.assert_allclose(
        ask(client, x), upscaled(x), rtol=0, atol=1e-5
    )  # the old one, until it is loaded
    client.load_model("net")
    np.testing.assert_allclose(ask(client, x), upscaled(x, seed=1), rtol=0, atol=1e-5)
    config = models / "net" / "config.pbtxt"
    config.write_text(config.read_text().replace("num_versions: 1", "num_versions: 2"))
    client.load_model("net")
    for version, seed in (("1", 0), ("2", 1), ("", 1)):
        np.testing.assert_allclose(ask(client, x, version=version), upscaled(x, seed), rtol=0, atol=1e-5)
    with pytest.raises(grpc.InferenceServerException, match="version 3|not found"):
        ask(client, x, version="3")
