"""Chat templates of jinja2, as published tokenizers have them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.data import DataError, PromptFormat, PromptLimits, Vocabulary
from mtfrun.data.errors import import_package
from mtfrun.data.files import absolute_path
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.untrusted import escape, parse_json, read_regular
from mtfrun.extras.chat.messages import Rendered
from mtfrun.extras.chat.prompts import ConversationPrompts
from mtfrun.processes.child_process import AnsweringChild, NoAnswerError

_LARGEST_FILE = 1 << 24
_RENDERING = Path(__file__).with_name("rendering.py")
# Of one conversation, which takes about a millisecond.
_MOST_SECS = 10.0
# Noncharacters that vocabularies and the program for rendering use as marks.
_MARKS = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")


# Expressions of jinja2; the assistant's turns are marked.
_TEMPLATE = string.Template("""\
{{- $begin }}
{%- for message in messages %}
{%- set role, content = message['role'], message['content'] %}
{{- $head }}
{%- if role == 'assistant' %}
{%- generation %}{{ $text + $end }}{% endgeneration %}
{%- else %}
{{- $text + $end_of_others }}
{%- endif %}
{{- $tail }}
{%- endfor %}
{%- if add_generation_prompt %}
{%- set role = 'assistant' %}
{{- $head }}
{%- endif %}
""")
_PARTS = ("begin", "head", "text", "end", "end_of_others", "tail")
_FORMATS = {
    "chatml": (
        *("''", r"'<|im_start|>' + role + '\n'"),
        *("content", "'<|im_end|>'", "'<|im_end|>'", r"'\n'"),
    ),
    "llama3": (
        *("bos_token", r"'<|start_header_id|>' + role + '<|end_header_id|>\n\n'"),
        *("content | trim", "'<|eot_id|>'", "'<|eot_id|>'", "''"),
    ),
    "plain": (
        *("bos_token", r"role | capitalize + ':\n'"),
        *("content", "eos_token", "''", r"'\n\n'"),
    ),
    "zephyr": (*("''", r"'<|' + role + '|>\n'"), *("content", "eos_token", "eos_token", r"'\n'")),
}
NAMED: Mapping[str, str] = {
    name: _TEMPLATE.substitute(dict(zip(_PARTS, parts, strict=True)))
    for name, parts in _FORMATS.items()
}
"""The templates of common formats."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes text: a template of a known format, or of a file.

    The template runs in jinja2's sandbox, in another process with limits of memory and time.

    Attributes:
      name: chatml, llama3, plain or zephyr.
      file: a tokenizer_config.json with a "chat_template", or a chat_template.jinja, instead.
      special_tokens: texts of special tokens by name, {"eos_token": "</s>"}; by default from
        tokenizer_config.json, else from the vocabulary.
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
            hint = did_you_mean(self.name, NAMED)
            raise InputError(f'ChatTemplate.name "{self.name}" is none of {", ".join(NAMED)}{hint}')
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
        fields = {"template": self._text, "special": dict(special_tokens), "asks": asks}
        request = f'{json.dumps(fields)[:-1]}, "conversation": {content}}}'
        try:
            answer = self._renderer.ask(request)
        except NoAnswerError:
            limit = f"more than {_MOST_SECS:g} s or too much memory"
            raise DataError(f"the template needs {limit}: choose another one") from None
        if "error" in answer:
            raise DataError(escape(answer["error"]))
        # Half a character, which JSON may have, cannot be written in UTF-8.
        text = answer["text"].encode("utf-8", "replace").decode()
        return Rendered(text, [(begin, end) for begin, end in answer["answers"]])

    def prompt_format(self, vocabulary: Vocabulary, limits: PromptLimits) -> PromptFormat:
        return ConversationPrompts(vocabulary, limits, self)

    @functools.cached_property
    def _renderer(self) -> AnsweringChild:
        import_package("jinja2", "a chat template")
        return AnsweringChild(_RENDERING, _MOST_SECS)


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
        config = parse_json(content)
        values = config if isinstance(config, dict) else {}
        template = values.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        if not isinstance(template, str):
            raise InputError('"chat_template" is not a text')
    except (OSError, InputError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"ChatTemplate.file: {name} has no chat template: {reason}; name a "
            f"tokenizer_config.json, a chat_template.jinja or one of {', '.join(NAMED)}"
        ) from error
    return template, special_tokens_of(values)


def special_tokens_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns "bos_token", "eos_token", ... of a tokenizer_config.json."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens
