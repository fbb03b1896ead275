from __future__ import annotations

import argparse
import pathlib
import re
import shlex
from collections.abc import Sequence

from mtfrun.cli.command import Command, settings_of
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

GROUPS = {"audit": "Finds out what a run has read and computed, and whether it can be repeated."}

_DESCRIPTION = """\
Makes a run that leaves out documents, from the last checkpoint before another run has read one.

  mtfrun audit exclude --from_run=/tmp/run --hashes=12-0123456789abcdef --model_dir=/tmp/excluded
  mtfrun train --gin_file=/tmp/excluded/config.gin --model_dir=/tmp/excluded

--hashes has the hashes of documents, which `mtfrun audit rows` prints, or names a file with them.
Their places are padding and have no loss; all other texts keep theirs. The run is equal to the bit
to a run that never reads the documents. Its configuration is the former run's, or --gin_file's,
with experiment.Training.exclude_documents. If no checkpoint is early enough it begins at step 0."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--from_run", help="the run to begin with", path="directory")
    text = "hashes of documents, separated by commas, or a file with them"
    add("--hashes", help=text, metavar="HASHES")


def _check(flags: argparse.Namespace) -> None:
    for name, words, example in (
        ("from_run", "the run to begin with", "/tmp/run"),
        ("hashes", "documents", "12-0123456789abcdef"),
        ("model_dir", "a directory for the run", "/tmp/excluded"),
    ):
        if getattr(flags, name) is None:
            raise InputError(f"audit exclude needs {words}: --{name}={example}")
    flags.gin_file = flags.gin_file or [str(pathlib.Path(flags.from_run, "config.gin"))]
    text = flags.hashes
    if pathlib.Path(text).is_file():
        text = pathlib.Path(text).read_text(encoding="utf-8")
    names = [name for name in re.split(r"[\s,]+", text) if name]
    binding = f"Training.exclude_documents = {names!r}"
    flags.bindings.append((f"--hashes={flags.hashes}", binding))


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.runs.run_training import prepare
    from mtfrun.extras.audit.exclude_documents import exclude_documents
    from mtfrun.rundir import RunDirectory

    former, run = RunDirectory(flags.from_run), RunDirectory(flags.model_dir)
    step = exclude_documents(prepare(settings_of(flags)), former, run)
    start = f"begins with step {step:,} of {former.path}"
    if not step:
        start = f"begins at step 0: {former.path} has no checkpoint before it reads the documents"
    path = shlex.quote(run.path)
    command = f"mtfrun train --gin_file={path}/config.gin --model_dir={path}"
    print_lines(f"{run.path} {start}", command)
    return 0


COMMANDS = [
    Command(
        "audit exclude",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        takes_url=False,
        model_dir="new directory",
    )
]
