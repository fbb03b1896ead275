"""The commands: their flags, and their help texts; imports no TensorFlow."""

from mtfrun.cli.flags.parse import COMMANDS as COMMANDS
from mtfrun.cli.flags.parse import parse_flags as parse_flags
