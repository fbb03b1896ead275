"""Embeddings, output layers and losses of tokens."""
