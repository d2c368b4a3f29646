"""The formats of checkpoints: `load` is the only entry point, with a module for each layout."""
