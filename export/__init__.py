"""torch module -> ONNX -> precision variants -> TensorRT engine -> bundle."""
