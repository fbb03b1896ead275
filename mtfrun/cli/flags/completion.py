"""The command `completion`: scripts for shells, and the words that may follow a command line."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.cli.flags.shells import SHELLS

_DESCRIPTION = """\
Prints a script that completes commands, flags, gin files and paths at the tab key.

  source <(mtfrun completion bash)                       in ~/.bashrc
  source <(mtfrun completion zsh)                        in ~/.zshrc, after compinit
  mtfrun completion fish | source                        in ~/.config/fish/config.fish"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    parser.add_argument(
        "--line",
        help="instead of the script, print what may stand at the end of this command line",
        metavar="TEXT",
    )


def _check(_: argparse.Namespace) -> None:
    pass


COMPLETION = Command(
    "completion",
    _DESCRIPTION,
    _add_flags,
    _check,
    "mtfrun.cli.completion:completion",
    imports_tensorflow=False,
    is_configured=False,
    is_of_run=False,
)
