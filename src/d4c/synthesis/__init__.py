"""Calibration images made from nothing but the CLIP itself."""
