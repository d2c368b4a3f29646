"""Zero-shot accuracy and fidelity of anything with `encode_image` and `encode_text`."""
