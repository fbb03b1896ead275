"""Output of the commands `mtfrun data`: rows of batches, and statistics of texts."""
