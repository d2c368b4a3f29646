"""What the records of settings share: presets, and the check of a field by its type."""
