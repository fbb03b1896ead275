"""Families of models: a file each; `model_types.py` has the list."""
