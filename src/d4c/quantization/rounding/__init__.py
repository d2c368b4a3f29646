"""How weights are rounded: GPTQ, learned rounding, and the walk through a tower."""
