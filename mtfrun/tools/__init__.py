"""Programs about runs, which no run needs: the other packages never import them."""
