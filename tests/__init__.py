"""Tests of mtfrun; the folders mirror those of the package."""
