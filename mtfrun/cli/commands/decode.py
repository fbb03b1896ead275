from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mtfrun.cli import command as cli
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.configuration.ranges import range_of
from mtfrun.display import progress
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun import mtf
    from mtfrun.cli.inputs_and_outputs import InputSource
    from mtfrun.cli.interactive import Session
    from mtfrun.experiment import Inference
    from mtfrun.experiment.runs.opening import RunObjects
    from mtfrun.rundir import RunDirectory

_DESCRIPTION = (
    """\
Continues or answers prompts, or classifies images: one JSON object each, in order.

  mtfrun decode --model_dir=/tmp/run --prompt="The " --prompt="If "
  mtfrun decode --model_dir=/tmp/run --input=prompts.txt --output=answers.jsonl
  mtfrun decode --model_dir=/tmp/run --prompt="The " --temperature=0.8 --top_p=0.9 --seed=1
  mtfrun decode --model_dir=/tmp/run --prompt="The " --temperature=0.8 --num_outputs=4
  mtfrun decode --model_dir=/tmp/run --input=prompts.jsonl --beam_size=4 --num_outputs=4
  mtfrun decode --model_dir=/tmp/run --interactive

Lines of --interactive that begin with / change settings, such as /temperature 0.8; see /help.

A file has one prompt a line: in .tsv files the first column, in .jsonl files {"input": ...}, in
.csv files the column called "input" in the first line. .gz, .bz2, .xz and .zst are decompressed.
--input=split:validation decodes the inputs of a split of the configured data, and prints targets.

A classifier of images takes PNG and JPEG files, or a split of its data:

  mtfrun decode --model_dir=/tmp/digits --input=photo.png --top_k=3
  mtfrun decode --model_dir=/tmp/digits --input=photos --output=labels.jsonl
  mtfrun decode --model_dir=/tmp/digits --input='photos/**/*.png,more.jpg,list.txt'
  mtfrun decode --model_dir=/tmp/digits --input=split:test --output=labels.jsonl

photos is a folder, list.txt has a path in each line. Images of another size than the model's are
scaled to cover it, and cropped at the centre.

"""
    + cli.RUN_HELP
)


class InferenceFlags(Protocol):
    """Flags that an entry point of the group "mtfrun.inference_flags" adds to `decode`."""

    def add_flags(self, parser: argparse.ArgumentParser) -> None: ...

    def check(self, flags: argparse.Namespace) -> None:
        """Raises InputError for flags that cannot be used."""

    def settings(self, flags: argparse.Namespace, mesh: mtf.Mesh) -> dict[str, Any]:
        """Returns settings of the inference by a model on a mesh."""


# Flags that are settings of an `Inference`: their kind of number and their help.
_INFERENCE: Mapping[str, tuple[type[int] | type[float], str]] = {
    "beam_size": (int, "beams of a beam search; 1 for none"),
    "num_outputs": (int, "outputs for each prompt: beams, up to beam_size, or samples"),
    "alpha": (float, "exponent of a beam search's length penalty"),
    "temperature": (float, "0 takes the most likely token each time"),
    "top_k": (int, "sample among the K most likely tokens; of images: number of labels"),
    "top_p": (float, "sample among the fewest tokens of this total probability"),
    "decode_length": (
        int,
        "largest number of new tokens for a prompt; an answer to n tokens also ends at "
        "Decoding.decode_length_multiplier (1.5) * n + decode_length_constant (10)",
    ),
    "seed": (int, "of the random numbers of sampling"),
}


def add_inference_flags(parser: argparse.ArgumentParser) -> None:
    for name, (kind, text) in _INFERENCE.items():
        number = cli.in_range(range_of("mtfrun", name), kind)
        parser.add_argument(f"--{name}", type=number, help=text)


def inference_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags that are settings of an `Inference`, without those left out."""
    values = {name: getattr(flags, name) for name in _INFERENCE}
    return {name: value for name, value in values.items() if value is not None}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `decode` that `chat` has as well."""
    add = parser.add_argument
    text = "a file with a prompt a line; - is standard input; or images, or split:NAME"
    add("--input", help=text, path="input")
    add("--prompt", action="append", default=[], help="a prompt; repeatable", metavar="TEXT")
    cli.add_output(parser, default="-")
    cli.add_checkpoint(parser)
    cli.add_adapter(parser)
    text = (
        "text: only outputs, with control characters escaped; for image files the name, a tab and "
        "the label"
    )
    cli.add_format(parser, ("jsonl", "text"), text, default="jsonl")
    add_inference_flags(parser)
    text = "end an output before this text; repeatable; $'\\n' is a line end in bash"
    add("--stop", action="append", help=text, metavar="TEXT")
    text = "also print the log-probability of each token, and of the N most likely ones there"
    add("--log_probs", type=cli.at_least(0), help=text)
    for added in _added_flags():
        added.add_flags(parser)


def _added_flags() -> list[InferenceFlags]:
    return [make() for make in load_entry_points("mtfrun.inference_flags").values()]


def check(flags: argparse.Namespace) -> None:
    """Raises InputError for flags of `add_flags` that cannot be used."""
    cli.check_run(flags, "latest", "best")
    for added in _added_flags():
        added.check(flags)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.add_argument(
        "--interactive", action="store_true", help="read prompts from the terminal, one by one"
    )


def _check(flags: argparse.Namespace) -> None:
    check(flags)
    sources = [bool(flags.prompt), flags.input is not None, flags.interactive]
    if sum(sources) != 1:
        raise InputError("decode needs prompts: --prompt=TEXT, --input=FILE or --interactive")
    if flags.interactive and flags.output != "-":
        raise InputError("--interactive answers on the terminal: leave --output out")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.inputs_and_outputs import InputSource, open_run
    from mtfrun.cli.interactive import Session

    run, built = open_run(flags, command)
    source = InputSource(flags.input, [os.fsencode(prompt) for prompt in flags.prompt])
    return decode(flags, run, built, built.experiment.inference, source, Session)


def decode(
    flags: argparse.Namespace,
    run: RunDirectory | None,
    built: RunObjects,
    inference: Inference,
    source: InputSource,
    session: type[Session],
) -> int:
    """Writes the outputs for the inputs of a source, or answers the lines of a session."""
    from mtfrun.cli.inputs_and_outputs import (
        as_text,
        json_line,
        note_outputs,
        open_output,
        write_files,
    )
    from mtfrun.experiment.runs.opening import restore_model

    inference = inference.with_settings(_settings(flags, built.experiment.mesh))
    if inference.writes_files and (flags.output == "-" or flags.interactive):
        raise InputError("outputs are image files: give --output=FILE.jsonl, and see FILE_files")
    inputs = inference.read(source)
    step = restore_model(built, run, flags.checkpoint, flags.adapter)
    if flags.interactive:
        session(inference.for_single_inputs(), inference_settings(flags)).run()
        return 0
    truncated = 0
    with open_output(flags.output) as file:
        records = inference.records(inputs)
        for record in records:
            truncated += bool(record.fields.get("truncated_tokens"))
            write_files(flags.output, record.files)
            if flags.format == "text":
                file.write("".join(map(as_text, record.texts)))
            else:
                file.write(json_line(record, step))
    note_outputs(inference, records, flags.decode_length)
    if truncated:
        line = "have more tokens than the model reads; truncated_tokens counts those cut off"
        progress.note(progress.warning(f"{truncated} prompt(s) {line}"))
    return 0


def _settings(flags: argparse.Namespace, mesh: mtf.Mesh) -> dict[str, Any]:
    settings = inference_settings(flags)
    for added in _added_flags():
        settings |= added.settings(flags, mesh)
    if flags.stop is not None:
        settings["stop"] = tuple(flags.stop)
    if flags.log_probs is not None:
        settings["log_probs"] = flags.log_probs
    return settings


COMMANDS = [
    cli.Command(
        "decode",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        prints_texts=True,
        model_dir="run",
        several_processes=True,
    )
]
