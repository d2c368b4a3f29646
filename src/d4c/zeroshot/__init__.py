"""Zero-shot classification: labels in templates as embeddings, and the class probabilities that follow from them."""
