"""How the range of a tensor is chosen."""
