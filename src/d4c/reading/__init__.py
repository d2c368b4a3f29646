"""Reads files of unknown origin: JSON, arrays and ONNX graphs, checked before anything is made of them."""
