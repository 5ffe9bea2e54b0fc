"""What runs: ONNX Runtime sessions on the device that was asked for."""
