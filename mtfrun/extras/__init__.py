"""Rooms beside the core, each for one purpose; the core finds them by entry points alone."""
