"""Families of models: a file each; `hugging_face/importer.py` has the list."""
