"""What `decode` and `score` read: prompts, pairs and images."""
