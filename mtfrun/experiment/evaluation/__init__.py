"""Evaluations of a model over splits."""
