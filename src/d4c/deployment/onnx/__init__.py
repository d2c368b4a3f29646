"""Towers as ONNX graphs, checked against PyTorch in ONNX Runtime."""
