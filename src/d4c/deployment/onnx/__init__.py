"""Writes towers as ONNX graphs and checks them against PyTorch in ONNX Runtime."""
