"""Output on a terminal: progress, tables, warnings; and signals from it."""
