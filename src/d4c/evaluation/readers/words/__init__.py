"""The words of datasets: names of classes, prompts, lines of text."""
