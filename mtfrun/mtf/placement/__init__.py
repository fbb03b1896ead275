"""Meshes, layouts, and DTensor."""
