"""Labelled images: sources, caches, and batches that are cropped and augmented."""
