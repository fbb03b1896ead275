"""Rows of batches: their texts, their order, packing, collating, and the infeed."""
