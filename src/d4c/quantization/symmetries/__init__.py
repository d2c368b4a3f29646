"""Rewrites of a float tower that leave its function as it is."""
