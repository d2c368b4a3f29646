"""What a model is calibrated with: sets of images, prompts, and images that are made without a model."""
