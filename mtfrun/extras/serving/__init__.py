"""Answers over HTTP: `mtfrun serve`."""
