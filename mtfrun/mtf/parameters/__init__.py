"""Variables, initializers and gradients."""
