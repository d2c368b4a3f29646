"""Grids of methods, schemes and seeds: every cell a file, on one machine or on a cluster, and the tables of them."""
