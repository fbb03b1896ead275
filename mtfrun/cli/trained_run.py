"""The parts that `eval`, `decode` and `score` share: run, checkpoints, output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

from mtfrun import processes
from mtfrun.configuration import config
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import visible
from mtfrun.experiment import Inference, Record
from mtfrun.experiment.runs.opening import RunObjects, Settings, build_run, find_trained_run
from mtfrun.experiment.runs.run_training import describe_setup
from mtfrun.experiment.saved_configuration import check_same_split
from mtfrun.files import RunDirError, atomic_open
from mtfrun.rundir import RunDirectory


def open_run(
    flags: argparse.Namespace, command: Sequence[str]
) -> tuple[RunDirectory | None, RunObjects]:
    """Returns the run directory, or None without --model_dir."""
    run = None if flags.model_dir is None else find_trained_run(flags.model_dir)
    with progress.waiting("building the model and its data"):
        built = build_run(run, Settings.of_flags(flags), adapter=flags.adapter)
    if run is not None:
        run.check_shared()
    check_same_split(built.experiment.data, None)
    each, mesh, count = flags.devices_per_process, built.experiment.mesh, processes.count()
    if each is not None and mesh.size != each * count:
        raise InputError(
            f"mesh {mesh.shape.to_string} has {mesh.size} device(s), {count} process(es) with "
            f"--devices_per_process={each} have {each * count}: change one of them"
        )
    if run is not None and processes.is_first():
        setup = describe_setup(built.experiment, config.config_text(flags.gin_allow_imports))
        try:
            run.record_command(command, setup)
        except RunDirError as error:  # it cannot be written
            problem, _, _ = str(error).partition("; ")
            progress.print_line(progress.warning(f"{problem}; nothing is recorded there"))
    return run, built


def note_outputs(
    inference: Inference, records: Iterable[Record], decode_length: int | None
) -> None:
    """Prints a report, with a note if limits other than `decode_length` have cut outputs."""
    if (report := inference.report()) is not None:
        progress.note(report)
    if decode_length is None:
        return
    outputs = [x for record in records for x in cast(Any, record.fields.get("outputs", ()))]
    tokens = {x["tokens"] for x in outputs if not x["finished"] and x["tokens"] < decode_length}
    if tokens:
        longest = " to ".join(str(number) for number in sorted({min(tokens), max(tokens)}))
        progress.note(
            f"mtfrun: note: outputs were cut off after {longest} tokens, before decode_length="
            f"{decode_length}: Decoding.max_length, decode_length_multiplier and "
            "decode_length_constant, and TARGETS_LENGTH limit them too"
        )


@contextlib.contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """A file appears once it is complete. Of several processes only the first writes."""
    if not processes.is_first():
        with pathlib.Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
    elif path == "-":
        if sys.stdout is None:
            raise InputError("standard output is closed: name a file with --output=FILE")
        yield sys.stdout
        sys.stdout.flush()
    else:
        with atomic_open(path) as file:
            yield file


def write_files(output: str, files: Mapping[str, bytes]) -> None:
    """Writes files into the directory FILE_files beside an output FILE.jsonl, each as a whole."""
    if not files or not processes.is_first():
        return
    path = pathlib.Path(output)
    for name, content in files.items():
        with atomic_open(path.with_name(f"{path.stem}_files") / name) as file:
            file.buffer.write(content)


def json_line(record: Record, step: int) -> str:
    fields = {**record.fields, "step": step}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(text: str) -> str:
    r"""Returns a text with a line end, and control characters other than line ends escaped.

    >>> as_text("two\nlines \x1b[31m")
    'two\nlines \\u001b[31m\n'
    """
    return f"{visible(text)}\n"
