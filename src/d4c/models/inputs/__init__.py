"""What a model reads: its tokenizer, and the files that say how pictures and prompts become tensors."""
