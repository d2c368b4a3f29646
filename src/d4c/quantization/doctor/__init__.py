"""What a checkpoint is like before it is quantized, and what to do about it."""
