from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli.command import Command, accept

_DESCRIPTION = """\
Prints a script that completes commands, flags, gin files and paths at the tab key.

  source <(mtfrun completion bash)                       in ~/.bashrc
  source <(mtfrun completion zsh)                        in ~/.zshrc, after compinit
  mtfrun completion fish | source                        in ~/.config/fish/config.fish"""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    shells = ("bash", "zsh", "fish")
    parser.add_argument("shell", choices=shells, help="the shell that reads the script")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["mtfrun"], shell=flags.shell))
    return 0


COMPLETION = Command(
    "completion",
    _DESCRIPTION,
    _add_flags,
    accept,
    run,
    imports_tensorflow=False,
    is_configured=False,
    is_of_run=False,
)
