from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.data import Data

# The split of an evaluation if the configuration names none.
_EVALUATION = "validation"


class ConfiguredData(NamedTuple):
    data: Data
    splits: Sequence[str]
    seed: int


def check_configured(flags: argparse.Namespace) -> None:
    if not flags.gin_file and flags.model_dir is None:
        raise InputError(f"{flags.command} needs a configuration: --gin_file=runs/quickstart.gin")


def check_tasks(flags: argparse.Namespace) -> None:
    try:
        re.compile(flags.tasks or "")
    except re.error as error:
        raise InputError(f"--tasks={flags.tasks} is not a regular expression: {error}") from None


def choose_caches(flags: argparse.Namespace) -> list[Path]:
    from mtfrun.data.cache_directory import cache_directories

    directories = cache_directories(flags.cache_dir)
    return [x for x in directories if re.fullmatch(flags.tasks or ".*", x.parent.name)]


def cache_name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def configure_data(flags: argparse.Namespace) -> ConfiguredData:
    from mtfrun.configuration import config
    from mtfrun.data import Data
    from mtfrun.experiment import Evaluation, Experiment
    from mtfrun.experiment.experiment import ALL_DATA
    from mtfrun.experiment.records import require
    from mtfrun.experiment.runs.settings import ROOTS
    from mtfrun.rundir import RunDirectory
    from mtfrun.tools.data_viewer.row_view import TRAIN

    files, allowed_imports = flags.gin_file, None
    if not files:
        run = RunDirectory(flags.model_dir)
        run.require()
        run.read_config()  # for its error, which names the remedy
        files, allowed_imports = [run.config_path], flags.gin_allow_imports
    config.parse(
        files,
        flags.bindings,
        search_paths=flags.gin_search_paths,
        roots=ROOTS,
        allowed_imports=allowed_imports,
    )
    data = config.argument(Experiment, "data")
    require(data, Data, "Experiment.data", ALL_DATA)
    evaluated = config.argument(Evaluation, "split", _EVALUATION)
    seed = config.argument(Experiment, "seed", 0)
    return ConfiguredData(data, list(dict.fromkeys([TRAIN, evaluated])), seed)
