"""Runs exported models without PyTorch, which nothing in this package imports."""
