"""Graphs that runtimes execute with integer kernels, made from artifacts."""
