"""What the commands `mtfrun data` print: rows of batches, and statistics of texts."""
