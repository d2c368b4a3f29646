"""Runs quantized transformers on the integer units of GPUs."""
