"""The command `runs`."""
