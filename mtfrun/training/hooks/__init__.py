"""Hooks, which run between steps."""
