"""Larger models from a run's checkpoint, by a rule for each dimension."""
