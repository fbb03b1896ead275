"""Gin files and flags: found, read, checked, and their errors explained."""
