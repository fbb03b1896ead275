"""The lines of `mtfrun decode --interactive`: prompts, and settings."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from mtfrun import processes
from mtfrun.cli.inputs_and_outputs import (
    InputSource,
    agreed_bytes,
    as_text,
    note_outputs,
    standard_input,
)
from mtfrun.display import progress
from mtfrun.errors import InputError, did_you_mean
from mtfrun.experiment import Inference

# Settings that a line cannot change: the programs are made for them.
_FIXED = ("draft", "chat")


@dataclasses.dataclass
class Session:
    """Answers lines of standard input; caches the programs and the prompts.

    Collective: every process must call its methods.

    Attributes:
      changed: settings of flags and lines.
    """

    help: ClassVar[str] = """\
/temperature 0.8   sets {names}
/settings          shows the settings that were changed
/quit              ends the session, as Ctrl-D does; // begins a line that begins with /"""

    inference: Inference
    changed: dict[str, Any]

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
                    if text.split()[0] == b"/quit":
                        return
                    self._command(text[1:].decode("utf-8", "replace"))
                else:
                    self.answer(text[text.startswith(b"//") :])
            except InputError as error:
                progress.note(progress.warning(str(error)))

    def answer(self, line: bytes) -> None:
        self.ask(line, "the prompt is longer than the model reads: its beginning was cut off")

    def ask(self, prompt: bytes, truncated: str) -> str:
        """Prints the outputs for a prompt, and returns the first.

        `truncated`: the warning if the model does not read all of the prompt.
        """
        source = InputSource(prompts=[prompt])
        (record,) = self.inference.records(self.inference.read(source))
        for output in record.texts if processes.is_first() else ():
            print(as_text(output), end="", flush=True)
        if record.fields.get("truncated_tokens"):
            progress.note(progress.warning(truncated))
        note_outputs(self.inference, [record], self.changed.get("decode_length"))
        return record.texts[0]

    @property
    def commands(self) -> Mapping[str, Callable[[str], None]]:
        """Functions of the arguments of a line, by its command, such as "/set"."""
        names, changed = ", ".join(self._names), self.changed.items()
        return {
            "help": lambda _: progress.note(self.help.format(names=names)),
            "settings": lambda _: progress.note("\n".join(f"{k} {v}" for k, v in changed)),
        }

    @property
    def _names(self) -> list[str]:
        return [setting for setting in self.inference.settings if setting not in _FIXED]

    def _command(self, text: str) -> None:
        name, _, value = text.strip().partition(" ")
        if name in self.commands:
            self.commands[name](value.strip())
        elif name in self._names:
            self._set(name, value.strip())
        else:
            hint = did_you_mean(name, [*self.commands, "quit", *self._names])
            raise InputError(f"there is no /{name}{hint}; /help lists what there is")

    def _set(self, name: str, value: str) -> None:
        setting: object = None
        if name == "stop":
            setting = (value,) if value else ()
        else:
            with contextlib.suppress(ValueError):
                setting = json.loads(value)
            if type(setting) not in (int, float):
                raise InputError(f"/{name} needs a number, such as /{name} 1")
        self.inference = self.inference.with_settings({name: setting})
        self.changed[name] = setting
