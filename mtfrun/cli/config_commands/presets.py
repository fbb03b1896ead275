"""The command `config list`. Imports no TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence

from mtfrun.cli.config_commands.text import wrapped
from mtfrun.configuration.headers import GinHeader, shipped_headers
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean


def list_presets(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Prints the gin files of the package, or those with one of `flags.words`."""
    del command
    headers = [h for h in shipped_headers().values() if _has_a_word(h, flags.words)]
    if not headers:
        names = [word for name in shipped_headers() for word in (name, name.split("/")[-1])]
        hint = did_you_mean(flags.words[0], names) or "; mtfrun config list lists all"
        raise InputError(f"no gin file of the package has {' or '.join(flags.words)!r}{hint}")
    if flags.json:
        print(json.dumps([dataclasses.asdict(header) for header in headers], indent=1))
        return 0
    print_lines(*_lines(headers))
    return 0


def _has_a_word(header: GinHeader, words: Sequence[str]) -> bool:
    text = f"{header.name} {header.description}".lower()
    return not words or any(word.lower() in text for word in words)


def _lines(headers: Sequence[GinHeader]) -> list[str]:
    width = max(len(header.name) for header in headers) + 2
    lines = []
    for folder, files in itertools.groupby(headers, key=lambda h: h.name.rpartition("/")[0]):
        lines += ["", f"{folder}/" if folder else "of every run"]
        for header in files:
            title = header.description.split("\n\n")[0].partition(". ")[0].rstrip(".")
            lines += wrapped(title, first=f"  {header.name:<{width}}", other=" " * (width + 2))
    return [
        *lines[1:],
        "",
        "mtfrun config show --gin_file=FILE shows all settings of a run.",
    ]
