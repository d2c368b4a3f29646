"""What training and fine-tuning wrap around the weights of a CLIP."""
