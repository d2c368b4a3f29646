"""Where CLIPs come from: one door, `load`, and a module for each layout behind it."""
