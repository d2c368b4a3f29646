"""Quantized transformers on the integer units of GPUs."""
