"""One tower alone, as Hugging Face saves it."""
