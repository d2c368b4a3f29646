"""Exports artifacts as graphs that runtimes execute with integer kernels."""
