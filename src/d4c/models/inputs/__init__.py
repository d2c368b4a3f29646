"""What a model reads: prompts as token ids, pictures as pixels, and the files that say how both are made."""
