"""Selecting and replacing entries by their index."""
