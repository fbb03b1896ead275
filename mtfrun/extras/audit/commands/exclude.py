from __future__ import annotations

import argparse
import ast
import pathlib
import re
import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment import Training
    from mtfrun.rundir import RunDirectory

GROUPS = {"audit": "Finds out what a run has read and computed, and whether it can be repeated."}

_DESCRIPTION = """\
Makes a run that leaves out documents, from the last checkpoint before another run has read one.

  mtfrun audit exclude --from_run=/tmp/run --hashes=12-0123456789abcdef --model_dir=/tmp/excluded
  mtfrun train --gin_file=/tmp/excluded/config.gin --model_dir=/tmp/excluded

--hashes has the hashes of documents, which `mtfrun audit rows` prints, or names a file with them.
Their places are padding and have no loss; all other texts keep theirs. The run is equal to the bit
to a run that never reads the documents. Its configuration is the former run's, or --gin_file's,
with experiment.Training.exclude_documents. If no checkpoint is early enough it begins at step 0."""

_PARAMETER = "experiment.Training.exclude_documents"
# More documents than any data have.
_ALL = 1 << 40


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
    from mtfrun.checkpoints.recorded_digests import VARIABLES
    from mtfrun.experiment.runs.opening import Settings
    from mtfrun.experiment.runs.run_training import prepare
    from mtfrun.experiment.saved_configuration import with_parameter
    from mtfrun.extras.audit.ledger import LEDGER
    from mtfrun.extras.audit.replay import copy_checkpoint
    from mtfrun.files.errors import refuse_link
    from mtfrun.rundir import RunDirectory
    from mtfrun.rundir.copied_files import write_run_files

    former, run = RunDirectory(flags.from_run), RunDirectory(flags.model_dir)
    prepared = prepare(Settings.of_flags(flags))
    former.require()
    checkpoints, directory = former.checkpoints(), pathlib.Path(run.path)
    checkpoints.require()
    run.prepare()
    with run.lock():
        # Until then no step has read a document that only one of the two runs leaves out.
        first = _first_difference(prepared.training, former)
        steps = [step for step in checkpoints.steps() if first is None or step < first]
        run.write_config(prepared.objects.config_text)
        data = prepared.training.experiment.data
        write_run_files(directory, data.vocabulary_files(), data.source_summary())
        manifest = checkpoints.manifest(max(steps)) if steps else None
        if manifest is not None:
            for file in (LEDGER, VARIABLES):
                source = pathlib.Path(former.path, file)
                if source.exists():
                    refuse_link(source)
                    shutil.copyfile(source, directory / file)  # training drops later steps
            text = prepared.training_hyperparameters["given"].get(_PARAMETER)
            copy_checkpoint(with_parameter(manifest, _PARAMETER, text), former, run)
    start = f"begins at step 0: {former.path} has no checkpoint before it reads the documents"
    if manifest is not None:
        start = f"begins with step {manifest.step:,} of {former.path}"
    path = shlex.quote(run.path)
    command = f"mtfrun train --gin_file={path}/config.gin --model_dir={path}"
    print_lines(f"{run.path} {start}", command)
    return 0


def _first_difference(training: Training, former: RunDirectory) -> int | None:
    """Returns the first step that reads a document that one run alone leaves out; None for none."""
    from mtfrun.experiment.runs.opening import ConfiguredData
    from mtfrun.experiment.saved_configuration import parameter_in
    from mtfrun.extras.audit.exposures import find_exposed

    experiment, saved = training.experiment, former.checkpoints().manifest(None)
    old = None if saved is None else parameter_in(saved, _PARAMETER)
    hashes = {*training.exclude_documents} ^ {*(ast.literal_eval(old) if old else ())}
    data = experiment.data.remove([])
    configured = ConfiguredData(data, [], experiment.seed, training.batch_size)
    documents = find_exposed(configured, former, _ALL, hashes=sorted(hashes))
    steps = (x.step for document in documents for x in (*document.read, *document.to_come))
    return min(steps, default=None)


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
