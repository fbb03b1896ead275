"""Data of texts."""
