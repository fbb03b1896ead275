"""The commands `data cache`, `data show` and `data stats`. No model is built, no device is used."""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.cli.data.length_statistics import bytes_of, length_statistics
from mtfrun.cli.data.row_view import Meanings, RowView, row_views
from mtfrun.cli.data.rows_html import rows_html
from mtfrun.cli.data.rows_text import heading_lines, rows_text
from mtfrun.cli.data.statistics_text import statistics_lines
from mtfrun.cli.terminable import terminable
from mtfrun.configuration import config
from mtfrun.data import Batch, Data, DataError, padding_of
from mtfrun.data.cache_choice import CacheChoice, Cached
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Evaluation, Experiment
from mtfrun.experiment.experiment import ALL_DATA
from mtfrun.experiment.inference import required
from mtfrun.experiment.runs.build import ROOTS
from mtfrun.rundir import RunDirectory, atomic_open

_TRAIN = "train"
# The split of an evaluation if the configuration names none.
_EVALUATION = "validation"
# Rows of which the padding is counted where it is not known of all.
_SAMPLED_ROWS = 1024


class _Configured(NamedTuple):
    """What the commands need of a configuration.

    Attributes:
      data: the data.
      splits: that of training and that of the evaluation.
      seed: of the order of training.
    """

    data: Data
    splits: Sequence[str]
    seed: int


@terminable()
def cache(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Builds the caches of the splits of training and evaluation, and prints a line for each."""
    choice = CacheChoice(flags.tasks or ".*", flags.output_cache_dir, flags.overwrite)
    return print_caches(flags, choice)


def print_caches(flags: argparse.Namespace, choice: CacheChoice) -> int:
    """Builds the selected caches of a configuration, and prints a line for each."""
    configured = _configured(flags)
    data, splits = configured.data, configured.splits
    if not data.cached_tasks:
        raise InputError(f"{type(data).__name__} is read without a cache: there is none to build")
    if not any(map(choice.includes, data.cached_tasks)):
        raise InputError(
            f"--tasks={flags.tasks} matches no task; there are {', '.join(data.cached_tasks)}"
        )
    for split in splits:
        start = time.monotonic()
        for cached in data.caches(split, choice):
            secs = time.monotonic() - start
            counts = ", ".join(f"{number:,} {name}" for name, number in cached.counts.items())
            print_lines(f"{_title(cached)}: {counts}, {secs:.1f} s, {cached.directory}")
            start = time.monotonic()
    return 0


@terminable()
def show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Shows rows of a split, on the terminal or in a page of HTML."""
    data, _, seed = _configured(flags)
    rows = [
        row if task is None else row.of_task(task)
        for task, row in _rows(data, flags.split, flags.rows, seed)
    ]
    if not rows:
        raise DataError(f'split "{flags.split}" has no rows: choose another')
    summary = [
        f"{type(data).__name__}, split {flags.split}",
        *_density_lines(data, flags.split, seed),
    ]
    if flags.html is not None:
        with atomic_open(flags.html) as file:
            file.writelines(rows_html(rows, f"Rows of the split {flags.split}", summary))
        return 0
    print_lines(*summary, "", *rows_text(rows, _width(), has_tokens=flags.tokens))
    if not flags.tokens:
        hint = "--tokens shows whole texts, and every token with its id, position and loss"
        print_lines(*heading_lines(hint, _width()))
    return 0


@terminable()
def stats(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints the statistics of the lengths of texts, of every task and split."""
    data, splits, seed = _configured(flags)
    for split in splits:
        for cached in data.caches(split):
            print_lines(*_statistics(cached, data))
        print_lines(*_density_lines(data, split, seed))
    return 0


def _configured(flags: argparse.Namespace) -> _Configured:
    """Returns the data of the configuration of --gin_file, or of the run of --model_dir."""
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
    required(data, Data, "Experiment.data", ALL_DATA)
    evaluated = config.argument(Evaluation, "split", _EVALUATION)
    seed = config.argument(Experiment, "seed", 0)
    return _Configured(data, list(dict.fromkeys([_TRAIN, evaluated])), seed)


def _rows(data: Data, split: str, count: int, seed: int) -> Iterator[tuple[str | None, RowView]]:
    """Yields the first rows of training, or of every task's evaluation on another split.

    With each the name of its task, None where there is only one.
    """
    meanings = Meanings(data.vocabularies, data.class_names)
    parts = data.by_task()
    if split == _TRAIN:
        batches = data.train(count, seed=seed)
        tasks = batches.components_at(count)
        for task, row in zip(tasks, row_views(next(batches), meanings), strict=True):
            yield (task if len(parts) > 1 else None), row
        return
    for task, part in parts.items():
        batch = next(part.evaluation(count, split=split), None)
        if batch is not None:
            for row in row_views(_without_empty_rows(batch), meanings):
                yield (task if len(parts) > 1 else None), row


def _batches(data: Data, split: str, rows: int, seed: int) -> Iterator[Batch]:
    """Returns the first batches of training, or of an evaluation on another split."""
    return data.train(rows, seed=seed) if split == _TRAIN else data.evaluation(rows, split=split)


def _without_empty_rows(batch: Batch) -> Mapping[str, np.ndarray]:
    """Returns a batch without the rows of zeros that fill it up, unless there are no others."""
    size = len(next(iter(batch.values())))
    occupied = np.zeros(size, bool)
    for values in batch.values():
        occupied |= values.reshape(size, -1).any(axis=1)
    return {name: values[occupied] for name, values in batch.items()} if occupied.any() else batch


def _density_lines(data: Data, split: str, seed: int) -> list[str]:
    """Returns lines on how full the rows of training are that a split makes."""
    densities = data.densities(split)
    if densities:
        return [
            f"{title}: {density.fraction:.2%} of {density.capacity:,} positions hold a token, "
            f"{density.cut_tokens:,} tokens are cut"
            for title, density in densities.items()
        ]
    rows = 64
    batches = itertools.islice(_batches(data, split, rows, seed), math.ceil(_SAMPLED_ROWS / rows))
    counts = [padding_of(batch) for batch in batches]
    positions = sum(count.positions for count in counts)
    if not positions:
        return []
    tokens = positions - sum(count.empty for count in counts)
    return [
        f"{tokens / positions:.2%} of {positions:,} positions hold a token, "
        f"in the first {rows * len(counts):,} rows"
    ]


def _statistics(cached: Cached, data: Data) -> Iterator[str]:
    """Yields lines on the texts of a task's split."""
    yield f"{_title(cached)}: " + ", ".join(f"{n:,} {name}" for name, n in cached.counts.items())
    if cached.texts is None:
        return
    features = cached.texts.features
    lengths = cached.texts.lengths
    bytes_per_id = [data.vocabularies[feature].bytes_per_id for feature in features]
    text_bytes = bytes_of(cached.texts.tokens, bytes_per_id, cached.texts.ends)
    for column, feature in enumerate(features):
        statistics = length_statistics(lengths[:, column], data.text_limits.get(feature))
        yield from statistics_lines(feature, statistics, text_bytes[column], _width())


def _title(cached: Cached) -> str:
    return f"{cached.title} {cached.split}"


def _width() -> int:
    """Returns the columns of the terminal."""
    return shutil.get_terminal_size().columns
