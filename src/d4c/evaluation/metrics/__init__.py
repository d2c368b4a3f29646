"""Figures of an evaluation with their intervals: one file for each family."""
