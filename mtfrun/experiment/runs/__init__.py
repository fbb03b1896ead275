"""Trained runs in Python: what the commands do, and what the commands share with it."""
