"""Flags as programs that use absl take them, T5 and T5X among them, in argparse's spelling."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_ONE_DASH = re.compile(r"-[A-Za-z][A-Za-z_]")
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


def with_two_dashes(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with -flag as --flag.

    Examples:
      >>> with_two_dashes(["-gin_file=a.gin", "-gin.SEED=1", "-n", "2", "-"])
      ['--gin_file=a.gin', '--gin.SEED=1', '-n', '2', '-']
    """
    return [f"-{text}" if _ONE_DASH.match(text) else text for text in arguments]


def with_plain_switches(arguments: Sequence[str], switches: Collection[str]) -> list[str]:
    """Returns the arguments with --switch=true as --switch, without --noswitch, --switch=false.

    Examples:
      >>> with_plain_switches(["--debug=true", "--noprofile", "--json=0"], ["debug", "profile"])
      ['--debug', '--json=0']
    """
    plain = []
    for text in arguments:
        name, equals, value = text.removeprefix("--").partition("=")
        is_switch = text.startswith("--") and name in switches
        if is_switch and value.lower() in _TRUE:
            plain.append(f"--{name}")
        elif not (
            (is_switch and equals and value.lower() in _FALSE)
            or (text.startswith("--no") and text.removeprefix("--no") in switches)
        ):
            plain.append(text)
    return plain
