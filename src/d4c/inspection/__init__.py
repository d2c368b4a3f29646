"""Numbers and pictures that explain a set of calibration images, whatever method made it."""
