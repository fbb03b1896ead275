from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, accept
from mtfrun.cli.shared_flags import add_json
from mtfrun.display.formats import wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from mtfrun.configuration.files import GinHeader

_DESCRIPTION = """\
Lists the gin files of the package by folder, with the first line of each.

  mtfrun config list
  mtfrun config list moe digits
  mtfrun config list --json

Words choose the files whose name or description has one of them."""


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.configuration.files import shipped_headers

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
            lines += wrap_lines(title, first=f"  {header.name:<{width}}", other=" " * (width + 2))
    return [
        *lines[1:],
        "",
        "mtfrun config show --gin_file=FILE shows all settings of a run.",
    ]


CONFIG_LIST = Command(
    "config list",
    _DESCRIPTION,
    add_json,
    accept,
    run,
    imports_tensorflow=False,
    is_configured=False,
    is_of_run=False,
    takes_words=True,
)
