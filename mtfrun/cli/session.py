"""The lines of `mtfrun decode --interactive`: prompts or a conversation, and settings."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from mtfrun import processes
from mtfrun.cli.inputs import InputSource, agreed_bytes, standard_input
from mtfrun.cli.trained_run import as_text, note_short_outputs
from mtfrun.data.conversations import ASSISTANT, MESSAGES, SYSTEM, USER, conversation_json
from mtfrun.display import progress
from mtfrun.errors import InputError, did_you_mean
from mtfrun.experiment import Inference

_HELP = """\
/temperature 0.8   sets {names}
/settings          shows the settings that were changed
/quit              ends the session, as Ctrl-D does; // begins a line that begins with /"""
_HELP_OF_CHAT = """
/system TEXT       begins a new conversation, with instructions
/clear             begins a new conversation
/undo              removes the last question and its answer"""

# Settings that a line cannot change: the programs are made for them.
_FIXED = ("draft", "chat")


@dataclasses.dataclass
class Session:
    """Answers lines of standard input; the programs, and what was read of a prompt, are cached.

    Collective: every process must call its methods.

    Attributes:
      chat: lines are a user's turns in one conversation, else prompts on their own.
      report: called after every answer.
      changed: settings of flags and lines.
    """

    inference: Inference
    chat: bool
    report: Callable[[Inference], None]
    messages: list[dict[str, str]] = dataclasses.field(default_factory=list)
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Returns at the end of standard input."""
        while True:
            if processes.is_first():
                print("> ", end="", file=sys.stderr, flush=True)
            line = agreed_bytes(lambda: standard_input().readline())
            if not line:
                return
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            try:
                if text.startswith(b"/") and not text.startswith(b"//"):
                    if text.strip() == b"/quit":
                        return
                    self._command(text[1:].decode("utf-8", "replace"))
                else:
                    self._answer(text[text.startswith(b"//") :])
            except InputError as error:
                progress.note(progress.warning(str(error)))

    def _answer(self, text: bytes) -> None:
        prompt = text
        messages = self.messages
        if self.chat:
            question = {"role": USER, "content": text.decode("utf-8", "replace")}
            messages = [*messages, question]
            prompt = conversation_json({MESSAGES: messages})
        source = InputSource(prompts=[prompt])
        (record,) = self.inference.records(self.inference.read(source))
        for output in record.texts if processes.is_first() else ():
            print(as_text(output), end="", flush=True)
        if record.fields.get("truncated_tokens"):
            line = "the prompt is longer than the model reads: its beginning was cut off"
            if self.chat:
                line = (
                    "the conversation is longer than the model reads: its oldest turns were dropped"
                )
            progress.note(progress.warning(line))
        if self.chat:
            self.messages = [*messages, {"role": ASSISTANT, "content": record.texts[0]}]
        self.report(self.inference)
        note_short_outputs([record], self.changed.get("decode_length"))

    def _command(self, text: str) -> None:
        name, _, value = text.strip().partition(" ")
        names = [setting for setting in self.inference.settings if setting not in _FIXED]
        commands = ["help", "settings", "quit", *(["system", "clear", "undo"] if self.chat else [])]
        if name not in (*commands, *names):
            raise InputError(
                f"there is no /{name}{did_you_mean(name, [*commands, *names])}; /help lists what "
                "there is, and // begins a line that begins with /"
            )
        if name == "help":
            help_text = _HELP.format(names=", ".join(names)) + _HELP_OF_CHAT * self.chat
            progress.note(help_text)
        elif name == "settings":
            progress.note("\n".join(f"{n} {v}" for n, v in self.changed.items()))
        elif name in ("clear", "system"):
            instructions = value.strip()
            self.messages = [{"role": SYSTEM, "content": instructions}] if instructions else []
        elif name == "undo":
            self.messages = self.messages[:-2] if len(self.messages) > 1 else self.messages
        else:
            self._set(name, value.strip())

    def _set(self, name: str, value: str) -> None:
        setting: object = value
        if name == "stop":
            setting = (value,) if value else ()
        else:
            try:
                setting = json.loads(value)
            except ValueError:
                setting = None
            if not isinstance(setting, int | float) or isinstance(setting, bool):
                raise InputError(f"/{name} needs a number, such as /{name} 1")
        self.inference = self.inference.with_settings({name: setting})
        self.changed[name] = setting
