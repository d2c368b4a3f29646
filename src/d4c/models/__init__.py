"""The towers of CLIP, and the checkpoints that they are loaded from."""
