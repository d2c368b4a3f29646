"""The towers of CLIP and every way to fill them with a checkpoint."""
