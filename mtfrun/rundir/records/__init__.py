"""The records of a run: commands, state, copied files."""
