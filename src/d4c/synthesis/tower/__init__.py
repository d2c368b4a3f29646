"""The copy of the image tower that is fast to differentiate."""
