# A Jetson with JetPack 6 or 7. docs/jetson.md, "In a container", has the commands and what is known of this file.
# hadolint global ignore=DL3008
ARG BASE
FROM ${BASE}

# TensorRT's module for Python, where the base has only the library; empty where it has both.
ARG TENSORRT=python3-libnvinfer
# The versions are those of the base, which is named by its digest.
# hadolint ignore=SC2086
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-opencv ${TENSORRT} \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/hasn-edge
COPY . .
ENV PATH=/opt/hasn-edge/.venv/bin:$PATH
ARG CONSTRAINTS=constraints-jetpack6.txt
# For JetPack 6.0, whose driver has CUDA 12.2: cuda-python<12.3.
ARG CUDA_PYTHON=cuda-python
# Without dependencies, so that pip's OpenCV does not hide the one above; it has to fit NumPy.
RUN python3 -m venv --system-site-packages .venv \
    && pip install --no-cache-dir -c "${CONSTRAINTS}" \
        click jinja2 msgspec numpy onnxruntime pillow rich tomli "${CUDA_PYTHON}" torch safetensors onnx \
    && pip install --no-cache-dir --no-deps . \
    && python3 -c "import cv2" \
    && hasn-edge --version

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all HOME=/tmp
WORKDIR /work
ENTRYPOINT ["hasn-edge"]
CMD ["doctor"]
