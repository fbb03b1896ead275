"""The operations on named tensors, grouped by kind."""
