"""Loops and conditions."""
