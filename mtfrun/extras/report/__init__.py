"""One HTML file about runs, which opens without a network: `mtfrun report`."""
