"""The commands: their flags, and their help texts; imports no TensorFlow."""

from mtfrun.cli.flags.parse import COMMANDS, parse_flags

__all__ = ["COMMANDS", "parse_flags"]
