"""Renders chat templates, which are programs, in a process with limits; needs jinja2 alone.

It answers lines of JSON, {"template": text, "special": texts by name, "asks": whether a turn begins
at the end, "conversation": ...}, with {"text": ..., "answers": [[begin, end], ...]}, or {"error":
reason}. All lines have the same template.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

MOST_BYTES = 1 << 30
LONGEST_TEXT, _LONGEST_REASON = 1 << 24, 300
MOST_CPU_SECS = 20  # of one answer
# Around what an assistant writes, until the text is whole; conversations do not have them.
BEGIN, END = "\ufdd2", "\ufdd3"


class RenderingError(Exception):
    """A template, or a conversation that it refuses; the message is one line."""


class Generation(jinja2.ext.Extension):
    """The block {% generation %} ... {% endgeneration %}, around what an assistant writes."""

    tags = {"generation"}  # noqa: RUF012 - as in jinja2
    is_used = False

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        type(self).is_used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)]) for mark in (BEGIN, END)]
        return jinja2.nodes.Scope([marks[0], *body, marks[1]]).set_lineno(line)


@functools.cache
def compile_template(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(text)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the arguments that templates give
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Unlike jinja2's filter of this name it escapes nothing of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: object) -> NoReturn:
    raise RenderingError(f"the template refuses it: {message}")


def render(request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request, see above."""
    template = compile_template(request["template"])
    conversation = request["conversation"]
    messages: list[dict[str, Any]] = conversation["messages"]

    def render_part(number: int, *, asks: bool) -> str:
        variables = {
            **request["special"],
            **{"tools": None, "documents": None, **conversation},
            **{"messages": messages[:number], "add_generation_prompt": asks},
        }
        return "".join(_check_length(template.generate(variables)))

    text, answers = split_marks(render_part(len(messages), asks=request["asks"]))
    if not Generation.is_used and not request["asks"]:
        answers = []
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before = render_part(number, asks=True)
                after = render_part(number + 1, asks=False)
                if not (after.startswith(before) and text.startswith(after)):
                    raise RenderingError(
                        f"the template writes message {number + 1} otherwise if others follow: put "
                        "{% generation %} ... {% endgeneration %} around what an assistant writes"
                    )
                answers.append((len(before), len(after)))
    return {"text": text, "answers": answers}


def _check_length(parts: Iterator[str]) -> Iterator[str]:
    size = 0
    for part in parts:
        size += len(part)
        if size > LONGEST_TEXT:
            raise RenderingError(f"the template writes more than {LONGEST_TEXT:,} characters")
        yield part


def split_marks(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Returns a text without marks, and [begin, end) of what was between marks.

    >>> split_marks("ab" + BEGIN + "cd" + END + "e")
    ('abcde', [(2, 4)])
    """
    parts, spans, begins, size = [], list[tuple[int, int]](), list[int](), 0
    for part in re.split(f"([{BEGIN}{END}])", marked):
        if part == BEGIN:
            begins.append(size)
        elif part == END and begins:
            spans.append((begins.pop(), size))
        elif part != END:
            parts.append(part)
            size += len(part)
    return "".join(parts), sorted(spans)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    for line in sys.stdin.buffer:
        most = int(time.process_time()) + MOST_CPU_SECS
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        try:
            answer = render(json.loads(line))
        except Exception as error:
            answer = {"error": _reason(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"the template needs more than {MOST_BYTES >> 20:,} MiB of memory"
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    if isinstance(error, RenderingError):
        return reason
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno} of the template: {reason}"
    return f"the template fails: {type(error).__name__}: {reason}"


if __name__ == "__main__":
    main()
