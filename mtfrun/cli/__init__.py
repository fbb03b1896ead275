"""The commands; the only package that knows gin."""
