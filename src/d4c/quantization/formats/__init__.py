"""Number formats, the arithmetic of codes, and how codes are packed."""
