"""The working copy of the image tower, which is fast to differentiate."""
