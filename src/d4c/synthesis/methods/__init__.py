"""Methods that make calibration images: one file each, and `table.py` with a row for each."""
