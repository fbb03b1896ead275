from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import RUN_HELP, Command
from mtfrun.cli.commands import decode
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.data import ConversationTemplate, Data

_DESCRIPTION = (
    """\
Talks with a model: a prompt is a user's turn, the output the assistant's.

  mtfrun chat --model_dir=/tmp/run
  mtfrun chat --model_dir=/tmp/run --prompt="How are you?" --chat_template=chatml
  mtfrun chat --model_dir=/tmp/run --input=conversations.jsonl --output=answers.jsonl

Without --prompt and --input the lines of the terminal are one conversation; those that begin with /
change settings, such as /temperature 0.8, and begin another conversation; see /help. A .jsonl file
has one conversation a line. The other flags are explained by `mtfrun decode --help`.

Prompts are made by the chat template that the run was trained with, or that an imported model's
tokenizer has, unless --chat_template names another one. It needs jinja2, the extra "chat".

"""
    + RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    decode.add_flags(parser)
    parser.add_argument(
        "--chat_template",
        help="chatml, llama3, plain or zephyr, or a file of a tokenizer with a chat_template; by "
        "default the run's",
    )


def _check(flags: argparse.Namespace) -> None:
    decode.check(flags)
    flags.interactive = not flags.prompt and flags.input is None
    if flags.prompt and flags.input is not None:
        raise InputError("--prompt and --input: give one of them")
    if flags.interactive and flags.output != "-":
        raise InputError("a chat answers on the terminal: leave --output out, or give --input=FILE")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.inputs_and_outputs import open_run
    from mtfrun.extras.chat.session import Chat, ChatSource

    run, built = open_run(flags, command)
    template = find_template(flags, built.experiment.data)
    if template is None:
        raise InputError(
            "the run has no chat template: name one, --chat_template=chatml, or its file"
        )
    inference = built.experiment.inference.with_settings({"chat": template})
    source = ChatSource(flags.input, [os.fsencode(prompt) for prompt in flags.prompt])
    return decode.decode(flags, run, built, inference, source, Chat)


def find_template(flags: argparse.Namespace, data: Data) -> ConversationTemplate | None:
    """Returns the template of --chat_template, else the data's, else of the run's tokenizer."""
    from mtfrun.experiment.adapters import find_adapter
    from mtfrun.extras.chat.template import NAMED, ChatTemplate, template_of_folder
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.copied_files import TOKENIZER_FOLDER

    name = flags.chat_template
    if name is not None:
        return ChatTemplate(name) if name in NAMED else ChatTemplate(file=name)
    template = data.conversation_template
    runs = [RunDirectory(flags.model_dir)] if flags.model_dir is not None else []
    if runs and flags.adapter is not None:
        runs.insert(0, find_adapter(flags.adapter, runs[0]))
    for run in runs:
        template = template or template_of_folder(pathlib.Path(run.path, TOKENIZER_FOLDER))
    return template


COMMANDS = [
    Command(
        "chat",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        prints_texts=True,
        model_dir="run",
        several_processes=True,
    )
]
