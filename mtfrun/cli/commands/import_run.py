from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence

from mtfrun.cli import command as cli
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.display import progress
from mtfrun.display.formats import wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape

_DESCRIPTION = """\
Makes a run directory of a model of another program.

  mtfrun import --from=/models/flan-t5-small --model_dir=/tmp/flan
  mtfrun decode --model_dir=/tmp/flan --prompt="translate English to German: How old are you?"
  mtfrun train  --gin_file=/tmp/flan/config.gin --gin_file=data/tsv_pairs.gin \\
                --gin.TSV_FILES="'pairs/*.tsv'" --model_dir=/tmp/run

An adapter becomes a run of adapters for the model of --base:

  mtfrun import --from=/models/lora --base=/tmp/llama --model_dir=/tmp/llama/adapters/formal

Files that gin files include are searched in --gin_search_paths (or --gin_location_prefix), then in
the directories above --from.

The new directory has config.gin, a checkpoint, and import.json, with which export gives back what
was imported, bit for bit. No code of the folder is run and no pickle file is read."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "a folder or a file of the other program"
    add("--from", dest="source", help=text, metavar="PATH", path="model")
    add("--base", help="the run of the model that an adapter was trained for", path="directory")
    text = "leave out what is not supported, with a line about it, instead of stopping"
    add("--partial", action="store_true", help=text)
    classes = load_entry_points("mtfrun.importers").values()
    texts = [line for x in classes for line in wrap_lines(x.description, first="* ", other="  ")]
    parser.add_argument_group("--from names one of", "\n".join(texts))


def _check(flags: argparse.Namespace) -> None:
    if not flags.source:
        raise InputError("import needs the model of another program: --from=/models/t5-small")
    for flag, _ in [*((f"--gin_file={name}", "") for name in flags.gin_file), *flags.bindings]:
        raise InputError(f"import takes settings from --from only: leave out {flag}")
    if flags.model_dir is None:
        raise InputError("import needs the directory of the run: --model_dir=/tmp/run")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.conversion.importer import importer_for, write_run
    from mtfrun.experiment.runs.opening import find_trained_run

    source = pathlib.Path(os.path.expanduser(flags.source))
    importer = importer_for(source)
    if importer.needs_base and flags.base is None:
        raise InputError(f"{source} is an adapter: name the run of its model with --base=/tmp/run")
    if flags.base is not None and not importer.needs_base:
        raise InputError(f"--base is for adapters, and {source} is a model: leave it out")
    imported = importer.read(
        source,
        partial=flags.partial,
        search_paths=flags.gin_search_paths,
        base=None if flags.base is None else find_trained_run(flags.base),
    )
    run = write_run(imported, flags.model_dir)
    for note in imported.notes:
        progress.note(f"mtfrun: note: {escape(note)}")
    print_lines(f"{run.path}: step {imported.step}, imported from {source}")
    return 0


COMMANDS = [
    cli.Command(
        "import", _DESCRIPTION, run, _add_flags, _check, takes_url=False, model_dir="new directory"
    )
]
