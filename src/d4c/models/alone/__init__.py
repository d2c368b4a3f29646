"""One tower alone: what is in place of the other."""
