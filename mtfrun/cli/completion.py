from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.cli.command import Command
from mtfrun.configuration.files import shipped_gin_files

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


def complete(root: argparse.ArgumentParser, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
    """Answers a shell at the tab key, and ends the process."""
    import argcomplete

    for parser in parsers.values():
        for flag in ("--gin_file", "--sweep_file"):
            action: Any = parser._option_string_actions.get(flag)
            if action is not None:
                action.completer = _complete_gin_file
    before, launched, line = os.environ["COMP_LINE"].partition(" -- ")
    if launched and "launch" in before.split():
        line = f"mtfrun {line}"
        os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line.encode())))
    argcomplete.autocomplete(root)


def _complete_gin_file(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    shipped = [name for name in shipped_gin_files() if name.startswith(prefix)]
    return [*shipped, *FilesCompleter()(prefix)]


COMMANDS = [
    Command(
        "completion", _DESCRIPTION, run, _add_flags, imports_tensorflow=False, subject="nothing"
    )
]
