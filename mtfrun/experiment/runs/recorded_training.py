"""Records of the configuration and the command of a training in its run directory."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Sequence

from mtfrun.configuration.run_files import CONFIG, RECORD
from mtfrun.data import Data
from mtfrun.experiment import Experiment
from mtfrun.rundir import RunDirectory, Setup, atomic_write
from mtfrun.rundir.records.copied_files import write_run_files


@contextlib.contextmanager
def recorded(
    run: RunDirectory,
    data: Data,
    setup: Setup,
    operative_config: str,
    command: Sequence[str],
    finished_steps: Callable[[], int],
) -> Iterator[None]:
    """Records configuration and command, and restores the former ones on an error before any step.

    A configuration that is refused, because it does not fit the run's checkpoints or has no data,
    must not replace that of the run.

    Args:
      run: a run whose lock is held.
      data: the files of its vocabularies are copied into the directory.
      setup: the configuration, and what the command runs with.
      operative_config: the arguments of all classes and functions that were called.
      command: the command line.
      finished_steps: returns the number of finished steps of the state that is trained.
    """
    run.clean()
    directory = pathlib.Path(run.path)
    files = [directory / name for name in (CONFIG, "operative_config.gin", RECORD)]
    former = {path: path.read_bytes() for path in files if path.is_file()}
    first_step = run.checkpoints().latest() or 0
    write_run_files(directory, data.vocabulary_files(), data.source_summary())
    run.write_config(setup.configuration)
    run.write_operative_config(operative_config)
    record = run.record_command(command, setup)
    try:
        yield
    except Exception:
        if not _has_begun(finished_steps, first_step):
            for path in files:
                _restore(path, former.get(path))
            _restore(pathlib.Path(record), None)
        raise


def setup_of(experiment: Experiment, configuration: str) -> Setup:
    """Returns what a command about an experiment runs with, for its record."""
    mesh = experiment.mesh
    return Setup(
        configuration,
        experiment.seed,
        mesh=mesh.shape.to_string,
        layout=mesh.layout.to_string,
        devices=mesh.describe_devices(),
    )


def as_text(command: Sequence[str]) -> str:
    """Returns a command as it is typed in a shell; bytes that are not UTF-8 are replaced."""
    return os.fsencode(shlex.join(command)).decode("utf-8", "replace")


def _has_begun(finished_steps: Callable[[], int], first_step: int) -> bool:
    """Returns whether a step was taken; before the error the state need not exist."""
    try:
        return finished_steps() not in (0, first_step)
    except Exception:
        return False


def _restore(path: pathlib.Path, content: bytes | None) -> None:
    """Writes the former content of a file, or deletes it if it had none."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        atomic_write(path, os.fsdecode(content))
