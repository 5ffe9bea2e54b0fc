"""Find the feature map in an ONNX graph, and make the artifact's graph."""
