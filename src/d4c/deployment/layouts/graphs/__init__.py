"""The graphs of layouts: what a tool expects of a file, building it, and comparing it with the towers."""
