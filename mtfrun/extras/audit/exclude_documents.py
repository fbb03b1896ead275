"""Runs that leave out documents, from the last checkpoint before another run has read one."""

from __future__ import annotations

import ast
import pathlib
import shutil

from mtfrun.checkpoints.recorded_digests import VARIABLES
from mtfrun.experiment.runs.opening import ConfiguredData
from mtfrun.experiment.runs.run_training import Preparation
from mtfrun.experiment.saved_configuration import parameter_in, with_parameter
from mtfrun.extras.audit.exposures import find_exposed
from mtfrun.extras.audit.ledger import LEDGER
from mtfrun.extras.audit.replay import copy_checkpoint
from mtfrun.files.errors import refuse_link
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.copied_files import write_run_files

_PARAMETER = "experiment.Training.exclude_documents"
# More documents than any data have.
_ALL = 1 << 40


def exclude_documents(prepared: Preparation, former: RunDirectory, run: RunDirectory) -> int:
    """Makes a run that resumes from the last checkpoint of another one before their batches differ.

    Until then no step has read a document that only one of the two runs leaves out. Returns the
    step; 0 if there is no such checkpoint.
    """
    former.require()
    checkpoints, directory = former.checkpoints(), pathlib.Path(run.path)
    checkpoints.require()
    run.prepare()
    with run.lock():
        first = _first_difference(prepared, former)
        steps = [step for step in checkpoints.steps() if first is None or step < first]
        run.write_config(prepared.objects.config_text)
        data = prepared.training.experiment.data
        write_run_files(directory, data.vocabulary_files(), data.source_summary())
        manifest = checkpoints.manifest(max(steps)) if steps else None
        if manifest is None:
            return 0
        for file in (LEDGER, VARIABLES):
            source = pathlib.Path(former.path, file)
            if source.exists():
                refuse_link(source)
                shutil.copyfile(source, directory / file)  # training drops later steps
        text = prepared.training_hyperparameters["given"].get(_PARAMETER)
        copy_checkpoint(with_parameter(manifest, _PARAMETER, text), former, run)
        return manifest.step


def _first_difference(prepared: Preparation, former: RunDirectory) -> int | None:
    """Returns the first step that reads a document that one run alone leaves out; None for none."""
    training, experiment = prepared.training, prepared.training.experiment
    saved = former.checkpoints().manifest(None)
    old = None if saved is None else parameter_in(saved, _PARAMETER)
    hashes = {*training.exclude_documents} ^ {*(ast.literal_eval(old) if old else ())}
    data = experiment.data.remove([])
    configured = ConfiguredData(data, [], experiment.seed, training.batch_size)
    documents = find_exposed(configured, former, _ALL, hashes=sorted(hashes))
    steps = (x.step for document in documents for x in (*document.read, *document.to_come))
    return min(steps, default=None)
