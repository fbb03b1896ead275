"""The commands `checkpoints ...`."""
