"""Triton kernels for GPUs; imported only where Triton is installed."""
