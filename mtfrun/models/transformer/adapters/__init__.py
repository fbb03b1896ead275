"""Adapters of Transformers."""
