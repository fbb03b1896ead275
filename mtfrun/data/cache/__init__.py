"""Caches of tokens on disk."""
