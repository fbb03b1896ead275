"""Attention: heads, masks, positions, the dot product."""
