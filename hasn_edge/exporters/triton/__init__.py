"""Models for NVIDIA Triton Inference Server."""
