"""Zero-shot classification: labels under templates as embeddings, and the probabilities that they give."""
