"""Whether quantization depends on how a checkpoint spreads its numbers."""
