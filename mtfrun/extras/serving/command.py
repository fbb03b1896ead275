from __future__ import annotations

import argparse
import errno
import os
import pathlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli import command as cli
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.display import progress
from mtfrun.errors import InputError, install_command
from mtfrun.errors.untrusted import escape
from mtfrun.processes.connection import Address, is_loopback

if TYPE_CHECKING:
    from mtfrun.data import ConversationTemplate, Data

_TOKEN = "MTFRUN_TOKEN"

_DESCRIPTION = (
    f"""\
Answers over HTTP, in OpenAI's form: many requests at a time, with one model.

  mtfrun serve --model_dir=/tmp/run
  curl http://127.0.0.1:8000/v1/completions -d '{{"prompt": "The ", "max_tokens": 20}}'

Opened in a browser, http://127.0.0.1:8000/ is a page to try the model. Requests of language models
are decoded in one batch, which they join and leave while it runs; --places is the largest number of
rows in it. What exceeds a limit is refused, with the reason in JSON.

Only this machine can connect. With --host=0.0.0.0 all can, and requests need the token that is in
the environment variable {_TOKEN}, or the first line of --token_file: "Authorization: Bearer TOKEN".
It needs Starlette, uvicorn and prometheus_client, the extra "serve".

"""
    + cli.RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(devices_per_process=None)  # a server is one process
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen at; 127.0.0.1", metavar="HOST")
    add("--port", type=cli.at_least(0), default=8000, help="8000; 0 for any that is free")
    add("--token_file", help="a file whose first line is the token", path="input")
    add("--name", help="the name of the model in requests; by default the name of --model_dir")
    cli.add_checkpoint(parser)
    cli.add_adapter(parser)
    add(
        "--chat_template",
        help="for /v1/chat/completions: chatml, llama3, plain or zephyr, or a file of a tokenizer "
        "with a chat_template; by default the run's",
    )
    add("--places", type=cli.at_least(1), default=16, help="rows that are decoded together; 16")
    add("--max_requests", type=cli.at_least(1), default=64, help="in progress or waiting; 64")
    add("--max_tokens", type=cli.at_least(1), default=4096, help="of an output; 4096")
    add("--max_seconds", type=cli.at_least(1, float), default=120.0, help="for a request; 120")
    add("--max_bytes", type=cli.at_least(1), default=4_000_000, help="of a request; 4,000,000")


def _check(flags: argparse.Namespace) -> None:
    cli.check_run(flags, "latest", "best")
    if flags.port > 65535:
        raise InputError(f"--port={flags.port} must be at most 65535")
    flags.token = _token(flags.token_file)
    if flags.token is None and not is_loopback(flags.host):
        raise InputError(
            f"--host={flags.host} answers other machines: set a token, in the environment variable"
            f" {_TOKEN} or with --token_file=FILE"
        )


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(_TOKEN) or None
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"--token_file={path}: its first line is empty, and must be the token")
    return lines[0].strip()


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that uvicorn will listen at; OSError if the port is in use."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        remedy = "; --port=0 takes one that is free" if in_use else ""
        raise InputError(f"--host={host} --port={port}: {error.strerror}{remedy}") from error
    return listener


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    try:
        import uvicorn

        from mtfrun.extras.serving.app import make_app
    except ImportError as error:
        raise InputError(
            f"serve needs {error.name}, which is not installed: {install_command('mtfrun[serve]')}"
        ) from error
    from mtfrun.cli.inputs_and_outputs import open_run
    from mtfrun.experiment.runs.opening import restore_model
    from mtfrun.extras.serving.connections import server_config
    from mtfrun.extras.serving.generation import Limits
    from mtfrun.extras.serving.served_model import ServedModel

    listener = bind(flags.host, flags.port)
    run, built = open_run(flags, command)
    step = restore_model(built, run, flags.checkpoint, flags.adapter)
    name = flags.name or ("model" if run is None else pathlib.Path(run.path).resolve().name)
    places = [size for size in (1, 4) if size < flags.places] + [flags.places]
    template = _template(flags, built.experiment.data)
    adapter = None if flags.adapter is None else pathlib.Path(flags.adapter).resolve().name
    model = ServedModel(built.experiment, name, step, places, template, adapter)
    limits = Limits(
        body_bytes=flags.max_bytes,
        tokens=flags.max_tokens,
        requests=flags.max_requests,
        seconds=flags.max_seconds,
    )
    with progress.waiting("compiling the programs"):
        model.compile()
    app = make_app(model, limits, flags.token)
    address = Address(*listener.getsockname()[:2])

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            parts = [f"model {escape(name)}", f"step {step}"]
            if adapter is not None:
                parts.append(f"adapter {escape(adapter)}")
            progress.note(f"{', '.join(parts)}: http://{address}/")

    Server(server_config(app)).run(sockets=[listener])
    return 0


def _template(flags: argparse.Namespace, data: Data) -> ConversationTemplate | None:
    """Returns the template that the command `chat` would take; without it, the data's."""
    chat = load_entry_points("mtfrun.commands").get("chat")
    if chat is not None:
        template: ConversationTemplate | None = chat.find_template(flags, data)
        return template
    if flags.chat_template is not None:
        raise InputError("--chat_template needs the command chat, which is not installed")
    return data.conversation_template


COMMANDS = [cli.Command("serve", _DESCRIPTION, run, _add_flags, _check, model_dir="run")]
