"""How weights are rounded: in closed form (GPTQ), by learning, and both from front to back through a tower."""
