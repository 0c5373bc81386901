"""A trained run for other programs: ONNX, the Hub, a Space."""
