"""Where networks come from: torchvision, timm, a factory, an ONNX file."""
