"""Running exported models without PyTorch: nothing below this package imports it."""
