"""Chat templates of jinja2, as published tokenizers have them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.data import DataError, Rendered
from mtfrun.data.errors import import_package
from mtfrun.data.files import absolute_path
from mtfrun.errors import InputError, did_you_mean
from mtfrun.processes.child_process import start_child
from mtfrun.tools.chat.named_templates import NAMED
from mtfrun.untrusted import parse_json, read_regular

_LARGEST_FILE = 1 << 24
_RENDERING = Path(__file__).with_name("rendering.py")
# Of one conversation, which takes about a millisecond.
_MOST_SECS = 10.0
_BYTES_PER_READ = 1 << 20
# Noncharacters that vocabularies and the program for rendering use as marks.
_MARKS = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes text: a template of a known format, or of a file.

    Needs the package jinja2. The template runs in jinja2's sandbox, in a process of its own, whose
    memory and time are limited.

    Attributes:
      name: chatml, llama3, plain or zephyr.
      file: a tokenizer_config.json with a "chat_template", or a chat_template.jinja, instead.
      special_tokens: texts of special tokens by name, {"eos_token": "</s>"}, that the template
        writes; by default the ones in tokenizer_config.json, else the vocabulary's.
    """

    name: str = "plain"
    file: str | None = None
    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    _text: str = dataclasses.field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        tokens: dict[str, str] = {}
        if self.file is not None:
            text, tokens = read_template(self.file)
        elif self.name in NAMED:
            text = NAMED[self.name]
        else:
            raise InputError(
                f'ChatTemplate.name "{self.name}" is none of {", ".join(NAMED)}'
                f"{did_you_mean(self.name, NAMED)}"
            )
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "special_tokens", {**tokens, **self.special_tokens})

    def __repr__(self) -> str:
        return f"ChatTemplate({self.name if self.file is None else self.fingerprint[:12]})"

    @property
    def files(self) -> Sequence[str]:
        return [] if self.file is None else [self.file]

    @functools.cached_property
    def fingerprint(self) -> str:
        content = json.dumps([self._text, dict(self.special_tokens)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def __call__(
        self, conversation: Mapping[str, Any], special_tokens: Mapping[str, str], *, asks: bool
    ) -> Rendered:
        content = json.dumps(conversation, ensure_ascii=False).translate(_MARKS)
        special = json.dumps(dict(special_tokens))
        request = f'{{"special": {special}, "asks": {json.dumps(asks)}, "conversation": {content}}}'
        answer = self._renderer.answer(request)
        # Half a character, which JSON may have, cannot be written in UTF-8.
        text = answer["text"].encode("utf-8", "replace").decode()
        return Rendered(text, [(begin, end) for begin, end in answer["answers"]])

    @functools.cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self._text)


def template_of_name(name: str) -> ChatTemplate:
    """Returns a template by its name, or of a file."""
    return ChatTemplate(name) if name in NAMED else ChatTemplate(file=name)


def template_of_folder(folder: Path) -> ChatTemplate | None:
    """Returns the template of the files of a tokenizer, if they have one."""
    text, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        values = parse_json(read_regular(config, _LARGEST_FILE))
    except FileNotFoundError:
        values = {}
    except (OSError, InputError) as error:
        raise DataError(f"{config} cannot be read: {error}; restore it, or name a file") from error
    values = values if isinstance(values, dict) else {}
    if text.is_file():
        return ChatTemplate(file=str(text), special_tokens=special_tokens_of(values))
    return ChatTemplate(file=str(config)) if values.get("chat_template") is not None else None


def read_template(name: str) -> tuple[str, dict[str, str]]:
    """Returns the template of a file, and its special tokens; a DataError names the file."""
    path = absolute_path(name)
    try:
        content = read_regular(path, _LARGEST_FILE)
        if path.suffix != ".json":
            return content.decode(), {}
        return template_of(parse_json(content))
    except (OSError, InputError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"ChatTemplate.file: {name} has no chat template: {reason}; name a "
            f"tokenizer_config.json, a chat_template.jinja or one of {', '.join(NAMED)}"
        ) from error


def template_of(config: object) -> tuple[str, dict[str, str]]:
    """Returns "chat_template" of a tokenizer_config.json, and its special tokens; InputError."""
    values = config if isinstance(config, dict) else {}
    template = values.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        raise InputError('"chat_template" is not a text')
    return template, special_tokens_of(values)


def special_tokens_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns "bos_token", "eos_token", ... of a tokenizer_config.json."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


class Renderer:
    """A process that renders one template; it is started again after one that had to be ended."""

    def __init__(self, template: str):
        self._template = template
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def answer(self, request: str) -> dict[str, Any]:
        """Returns the answer to a line of JSON; DataError for what fails, or takes too long."""
        with self._lock:
            if self._process is None:
                self._process = self._start()
            return self._ask(self._process, request)

    def _start(self) -> subprocess.Popen[bytes]:
        import_package("jinja2", "a chat template")
        # -P: the folder of the program is no place for imports.
        arguments = [sys.executable, "-P", str(_RENDERING)]
        process = start_child(
            arguments,
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._process = process
        try:
            self._ask(process, json.dumps({"template": self._template}))
        except DataError:
            self._end()
            raise
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: str) -> dict[str, Any]:
        assert process.stdin is not None
        try:
            process.stdin.write(request.encode("utf-8", "replace") + b"\n")
            process.stdin.flush()
            line = _read_line(process)
        except BaseException:
            self._end()
            raise
        if not line.endswith(b"\n"):
            self._end()
            raise DataError(
                f"the template needs more than {_MOST_SECS:g} s or too much memory for a "
                "conversation: choose another one"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DataError(answer["error"])
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def __del__(self) -> None:
        self._end()


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """Returns a line, or what there is of it if the process ends or takes too long."""
    assert process.stdout is not None
    descriptor, end = process.stdout.fileno(), time.monotonic() + _MOST_SECS
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    while not (parts and parts[-1].endswith(b"\n")):
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            break
        part = os.read(descriptor, _BYTES_PER_READ)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
