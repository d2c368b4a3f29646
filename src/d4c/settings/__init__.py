"""What the records of settings share: presets, and a check of every field against its declared type."""
