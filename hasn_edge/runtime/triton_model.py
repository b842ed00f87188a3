"""A model of hasn-edge in Triton's Python backend: images of any size, requests of one size as one batch.

It is copied into each version's folder as ``model.py``; the server imports it there, nothing else does. It
stands alone because it runs in the server's process and imports what only that has.

Parameters of ``config.pbtxt`` that it reads: ``session_backend`` (``onnxruntime``, ``openvino`` or
``openvino-bf16``, for graphs) and ``session_threads``.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The Python inside the server does not read it; without it hasn-edge must be among the system's packages.
sys.path.extend(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))

from hasn_edge.errors import HasnEdgeError
from hasn_edge.runtime.open import open_session
from hasn_edge.runtime.upscaler import Upscaler


class TritonPythonModel:
    """One instance of the model; the server calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the file that lies beside this one."""
        folder = Path(args["model_repository"], args["model_version"])
        (sidecar,) = folder.glob("model.*.json")
        given = json.loads(args["model_config"]).get("parameters", {})
        asked = {key: value["string_value"] for key, value in given.items()}
        options: dict[str, Any] = {}
        if args["model_instance_kind"] == "GPU":
            options["device"] = f"cuda:{args['model_instance_device_id']}"
        measured = asked.get(f"hasn_edge.{args['model_version']}.session_backend")  # for this version's file
        if backend := asked.get("session_backend", measured):
            options["backend"] = backend
        if "session_threads" in asked:
            options["threads"] = int(asked["session_threads"])
        self.session = open_session(sidecar.with_suffix(""), **options)
        self.upscaler = Upscaler(self.session)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests: those of one size together, each with its part, or with what was wrong with it."""
        # DLPack both ways: the server 2.51 mistakes the strides of NumPy 2's arrays; pixels come out wrong.
        images = [np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "input")) for request in requests]
        answers: list[Any] = []
        for _, group in groupby(images, key=lambda x: x.shape[1:]):
            answers += self._answer(list(group))
        return answers

    def _answer(self, images: list[Any]) -> list[Any]:
        try:
            upscaled = self._upscale(np.concatenate(images))
        except HasnEdgeError as exc:
            if len(images) > 1:  # one of them is at fault, and its neighbours are not
                return [answer for one in images for answer in self._answer([one])]
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))]
        parts = np.split(upscaled, np.cumsum([len(x) for x in images])[:-1])
        tensors = [pb_utils.Tensor.from_dlpack("output", np.ascontiguousarray(part)) for part in parts]
        return [pb_utils.InferenceResponse(output_tensors=[tensor]) for tensor in tensors]

    def _upscale(self, x: Any) -> Any:
        if x.dtype == np.uint8:
            return np.stack([self.upscaler.upscale(one) for one in x])
        return self.upscaler.run(x)

    def finalize(self) -> None:
        """Free what the session holds."""
        self.upscaler.close()
