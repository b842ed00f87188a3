"""Train, fuse, quantize, build and measure HASN super-resolution for NVIDIA devices."""
