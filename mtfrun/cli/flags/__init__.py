"""The flags of the commands, and their help texts; imports no TensorFlow."""

from mtfrun.cli.flags.parse import parse_flags

__all__ = ["parse_flags"]
