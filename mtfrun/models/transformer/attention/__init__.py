"""Sublayers of attention."""
