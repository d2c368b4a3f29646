"""What a model is calibrated with: sets of images, prompts, and pictures that need no model."""
