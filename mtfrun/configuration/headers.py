"""What the headers of the shipped gin files say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from mtfrun.configuration.files import SHIPPED, shipped_gin_files

_FIELD = re.compile(r"^ (Paper|Cost|Result|Commonly overridden|Command):", re.MULTILINE)
_MACROS = re.compile(r"^ {5}([A-Z_]+(?:, [A-Z_]+)*): (.*(?:\n {9}.*)*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class GinHeader:
    """The comment at the top of a gin file.

    `description` has paragraphs; `overridden` says what macros mean, by one or several names:
    "NUM_LAYERS, D_MODEL"; `result` was measured, or is "not measured".
    """

    name: str
    description: str
    cost: str
    result: str
    overridden: Mapping[str, str]
    command: str
    paper: str | None = None


def shipped_headers() -> dict[str, GinHeader]:
    return {
        name: _header(name, Path(SHIPPED, name).read_text("utf-8")) for name in shipped_gin_files()
    }


def _header(name: str, text: str) -> GinHeader:
    lines = text.splitlines()
    count = next((i for i, x in enumerate(lines) if not x.startswith("#")), len(lines))
    description, *parts = _FIELD.split("\n".join(x.removeprefix("#") for x in lines[:count]))
    fields = dict(zip(parts[::2], parts[1::2], strict=True))
    macros = _MACROS.findall(fields.get("Commonly overridden", ""))
    return GinHeader(
        name,
        description="\n".join(x.removeprefix(" ") for x in description.split("\n")).strip(),
        cost=_phrase(fields.get("Cost", "")),
        result=_phrase(fields.get("Result", "")),
        overridden={names: _phrase(meaning) for names, meaning in macros},
        command="\n".join(map(str.strip, fields.get("Command", "").split("\n"))).strip(),
        paper=_phrase(fields["Paper"]) if "Paper" in fields else None,
    )


def _phrase(text: str) -> str:
    return " ".join(text.split())
