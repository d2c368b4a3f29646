"""Numbers and pictures that explain a set of images to calibrate with, whatever they were made by."""
