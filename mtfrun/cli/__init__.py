"""The commands; the only package that imports gin."""
