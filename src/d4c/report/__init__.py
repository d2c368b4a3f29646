"""The report: one HTML file that says what quantization did to a model, with pictures, charts and their tables."""
