"""The checkpoints of a run: saved, read, checked and retained."""
