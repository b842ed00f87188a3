"""Writing FP16 and INT8 into an ONNX graph."""
