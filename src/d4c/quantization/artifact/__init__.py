"""The artifact on disk."""
