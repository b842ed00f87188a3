"""The page that goes with a model for NVIDIA Triton Inference Server: how to serve it and how to ask it."""

from __future__ import annotations

from hasn_edge.artifact import Artifact
from hasn_edge.exporters.triton.pbtxt import ANY, DATA_TYPES, PYTHON, TENSORRT, TensorSettings, TritonConfig
from hasn_edge.sidecar import GraphDetails, Kind


def readme(config: TritonConfig, artifact: Artifact) -> str:
    """Return Markdown text with the server's command and a client in Python.

    Args:
        config: The model's configuration.
        artifact: The file that was made into the model's first version.
    """
    gpu = "--gpus all " if config.kind != "cpu" else ""
    image = "hasn-edge-server" if config.backend == PYTHON else "nvcr.io/nvidia/tritonserver:YY.MM-py3"
    sections = [
        f"# {config.name}\n",
        f"{artifact.spec.scale}x super-resolution in {artifact.precision.value}, as NVIDIA Triton Inference "
        "Server takes it. hasn-edge's `export` wrote it.\n",
        "## Serve\n",
        "In the folder that holds this model's folder:\n",
        "```\n"
        f'docker run --rm {gpu}-p 8000:8000 -p 8001:8001 -v "$PWD":/models \\\n'
        f"  {image} tritonserver --model-repository=/models\n"
        f"curl -f localhost:8000/v2/models/{config.name}/ready\n"
        "```\n",
        _release(config, artifact),
        "## Ask\n",
        _tensors(config),
        _small_images(config, artifact),
        _client(config) if artifact.spec.channels == 3 else "",
        "## Versions\n",
        "Each numbered folder is one version, with a sidecar that states what it was made from. "
        "`config.pbtxt` is common to all and may be edited. The server loads the highest number; "
        "`version_policy` sets how many it keeps.\n",
        "To add a version, export again to the same folder under the same name; what was changed in "
        "`config.pbtxt` stays. A running server takes it up when it is restarted or, with "
        "`--model-control-mode=explicit`, by "
        f"`curl -X POST localhost:8000/v2/repository/models/{config.name}/load`.\n",
    ]
    return "\n".join(section for section in sections if section)


def _release(config: TritonConfig, artifact: Artifact) -> str:
    if config.backend == PYTHON:
        extra = {Kind.ENGINE: "cuda", Kind.ONNX: "openvino"}.get(artifact.kind, "export")
        return (
            "The server's Python backend runs the file by hasn-edge's own session, so hasn-edge must be in "
            "the image:\n\n"
            "```\n"
            "printf 'FROM nvcr.io/nvidia/tritonserver:YY.MM-py3\\nCOPY *.whl /tmp/\\n"
            f'RUN pip install "$(ls /tmp/*.whl)[{extra}]"\\n\' > Dockerfile\n'
            "docker build -t hasn-edge-server .   # beside the wheel of hasn-edge\n"
            "```\n\n"
            "Parameters of `config.pbtxt`: `session_backend` (`onnxruntime`, `openvino` or `openvino-bf16`, "
            "for graphs) and `session_threads`, the CPU threads of one instance.\n"
        )
    if config.backend != TENSORRT:
        return (
            "`YY.MM` is any release whose ONNX Runtime reads opset "
            f"{artifact.graph.opset}; the newest does.\n"
        )
    return (
        f"`YY.MM` is the release with TensorRT {artifact.engine.version}, exactly: NVIDIA's support "
        "matrix of the Triton containers lists them. The engine runs on the kind of GPU that it was built "
        "on; build it again for another.\n"
    )


def _tensors(config: TritonConfig) -> str:
    lines = ["| tensor | type | shape | meaning |", "|---|---|---|---|"]
    for what, tensors in (("in", config.inputs), ("out", config.outputs)):
        for tensor in tensors:
            dims = (("batch",) if config.max_batch_size else ()) + tuple(map(str, tensor.dims))
            shape = ", ".join(dims).replace(str(ANY), "any")
            lines.append(f"| {what}: `{tensor.name}` | {_type(tensor)} | {shape} | {_meaning(tensor)} |")
    return "\n".join(lines) + "\n"


def _small_images(config: TritonConfig, artifact: Artifact) -> str:
    """Say what becomes of images that are smaller than the network's least side."""
    least, details = artifact.spec.size.minimum, artifact.details
    if config.backend == PYTHON:
        return "Images of any size from 1 x 1: small ones are padded and cropped, large ones tiled.\n"
    if not isinstance(details, GraphDetails) or details.size is not None or least == 1:
        return ""
    if details.padded:
        return (
            f"Images of any size: a side below {least} pixels is padded to that inside the graph, its last "
            "row or column repeated, and the result is cropped.\n"
        )
    return (
        f"**No side below {least} pixels**: version 0.1 made this graph, which does not pad smaller images, "
        "and ONNX Runtime ends the server's process on one. Export the model again.\n"
    )


def _type(tensor: TensorSettings) -> str:
    return DATA_TYPES[tensor.dtype].removeprefix("TYPE_")


def _meaning(tensor: TensorSettings) -> str:
    return "RGB, 0 to 255, NHWC" if tensor.dtype == "uint8" else "RGB in [0, 1], NCHW"


def _client(config: TritonConfig) -> str:
    """Return a client: with pixels if the model takes them, else with floats."""
    (given,), (made,) = config.inputs, config.outputs
    pixels = given.dtype == "uint8"
    if pixels:
        before = "x = image[None]"
        after = "upscaled = y[0]"
    else:
        before = f"x = (image.transpose(2, 0, 1)[None] / 255).astype(np.{given.dtype})"
        after = "upscaled = np.rint(y[0].clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)"
    numpy = "" if pixels else "import numpy as np\n"
    return f"""`pip install 'tritonclient[http]' opencv-python-headless`

```python
import cv2
{numpy}import tritonclient.http as triton

image = cv2.cvtColor(cv2.imread("photo.png"), cv2.COLOR_BGR2RGB)
{before}
tensor = triton.InferInput("{given.name}", list(x.shape), "{_type(given)}")
tensor.set_data_from_numpy(x)
client = triton.InferenceServerClient("localhost:8000", network_timeout=600)
y = client.infer("{config.name}", [tensor]).as_numpy("{made.name}")
{after}
cv2.imwrite("upscaled.png", cv2.cvtColor(upscaled, cv2.COLOR_RGB2BGR))
```
"""
