"""Checks of files and texts from untrusted sources, made before other code uses them."""
