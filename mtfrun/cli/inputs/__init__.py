"""The inputs of `decode` and `score`: prompts, pairs and images."""
