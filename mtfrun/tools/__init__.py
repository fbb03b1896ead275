"""What is about runs and no part of running one: the other packages never import it."""
