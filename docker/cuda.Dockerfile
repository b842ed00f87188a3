# x86-64 with an NVIDIA GPU. docs/jetson.md, "In a container", has the commands and what is known of this file.
# hadolint global ignore=DL3008
ARG BASE
FROM ${BASE}

# The versions are those of the base, which is named by its digest.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/hasn-edge
COPY . .
ENV PATH=/opt/hasn-edge/.venv/bin:$PATH
# Those of the driver which will run it: a driver of CUDA 12 takes nothing that is made for CUDA 13, and what PyTorch
# for CUDA 13 brings has files of the same names as cuda-python for CUDA 12.
ARG CUDA_PYTHON="cuda-python>=13,<14"
ARG TENSORRT="rtx,tensorrt"
ARG TORCH="torch==2.13.0"
RUN python3 -m venv .venv \
    && sed -i "s/^torch==.*/${TORCH}/" constraints.txt \
    && pip install --no-cache-dir -c constraints.txt \
        ".[export,train,video,demo,openvino,nvml,${TENSORRT}]" "${CUDA_PYTHON}" \
    && hasn-edge --version

# video is for NVENC. A user without a name has no other home.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video HOME=/tmp
WORKDIR /work
ENTRYPOINT ["hasn-edge"]
CMD ["doctor"]
