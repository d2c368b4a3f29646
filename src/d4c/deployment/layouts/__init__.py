"""Layouts: the files that other tools look for, one module per tool."""
