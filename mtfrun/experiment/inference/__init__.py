"""Decoding, scoring and classification with a model of an experiment."""
