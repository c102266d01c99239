"""Other ways from a traced stage to an engine than through ONNX."""
