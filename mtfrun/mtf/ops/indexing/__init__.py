"""Selection and replacement of entries by their index."""
