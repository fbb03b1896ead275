"""Inputs of `eval`, `decode` and `score` (a run, prompts, pairs, images), and their outputs."""

# Not pathlib: names are shown as they were typed, and its tests for a file raise an error where a
# list of names is longer than a name can be.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH117, PTH118, PTH208

from __future__ import annotations

import argparse
import codecs
import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TextIO, cast

import numpy as np

from mtfrun import processes
from mtfrun.configuration import config
from mtfrun.data.files import matching_files
from mtfrun.data.sources.records import BadRecordError, json_value
from mtfrun.data.sources.streams import blocks, kind_of, whole_lines
from mtfrun.data.sources.tsv import CSV, csv_records
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import visible
from mtfrun.experiment import Images, Inference, Record
from mtfrun.experiment.runs.opening import RunObjects, Settings, build_run, find_trained_run
from mtfrun.experiment.runs.run_training import describe_setup
from mtfrun.experiment.saved_configuration import check_same_split
from mtfrun.files import RunDirError, atomic_open
from mtfrun.rundir import RunDirectory

_SPLIT = "split:"
# Names of an input and of a target in a line of JSON.
_INPUT_KEYS = ("input", "inputs", "prompt")
_TARGET_KEYS = ("target", "targets", "output")


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


@dataclasses.dataclass(frozen=True)
class InputSource:
    """The input of `decode`: a file, images or a split of the data (--input), or else prompts."""

    path: str | None = None
    prompts: Sequence[bytes] = ()

    @property
    def split(self) -> str | None:
        path = self.path or ""
        return path.removeprefix(_SPLIT) if path.startswith(_SPLIT) else None

    def texts(self) -> Sequence[bytes]:
        if (self.path or "").lower().endswith(IMAGE_SUFFIXES):
            problem = "the model reads text: give a file with a prompt a line, or --prompt=TEXT"
            raise InputError(f"--input={self.path}: {problem}")
        if self.path is None:
            return self.prompts
        return read_prompts(self.path)

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        if self.path is None:
            raise InputError(f"the model reads images: give --input=FILE, a folder or {_SPLIT}NAME")
        paths = image_paths(self.path)
        # Names that are not UTF-8 cannot be written as JSON.
        names = [os.fsencode(path).decode("utf-8", "replace") for path in paths]
        fields: list[dict[str, object]] = [{"file": name} for name in names]
        return Images(len(paths), zip(map(read, paths), fields, strict=True))


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What the names of image files end with."""
_LIST_SUFFIX = ".txt"


def image_paths(argument: str) -> list[str]:
    """Returns the paths of image files, all of which exist.

    `argument` has, separated by commas, images, folders (their PNG and JPEG files by name),
    patterns such as "photos/**/*.png", or `.txt` files ("-" is standard input) with a path a line.
    """
    parts = [argument] if os.path.exists(argument) else argument.split(",")
    paths = [path for part in parts for path in _paths(part)]
    for path in paths:
        if not os.path.isfile(path):
            raise InputError(f"no image {path}: give an image, folder, pattern or list (.txt)")
    if not paths:
        raise InputError(f"--input={argument} names no image")
    return paths


def _paths(part: str) -> list[str]:
    if part == "-" or (part.endswith(_LIST_SUFFIX) and os.path.isfile(part)):
        return [os.fsdecode(line) for line in read_lines(part) if line]
    if os.path.isdir(part):
        names = [name for name in os.listdir(part) if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise InputError(f"the folder {part} holds no {', '.join(IMAGE_SUFFIXES)} file")
        return [os.path.join(part, name) for name in sorted(names)]
    if glob.has_magic(part) and not os.path.exists(part):
        matches = matching_files(os.path.abspath(part))
        if not os.path.isabs(part):
            matches = [os.path.relpath(path) for path in matches]
        if not matches:
            raise InputError(f"no file matches {part}")
        return matches
    return [part]


def read_prompts(path: str) -> list[bytes]:
    """Returns lines; of `.tsv` the first column, of `.csv` and `.jsonl` the inputs."""
    if kind_of(path) in (CSV, ".jsonl"):
        return [prompt for (prompt,) in _named_texts(path, _INPUT_KEYS)]
    lines = read_lines(path)
    return [line.split(b"\t")[0] for line in lines] if kind_of(path) == ".tsv" else lines


def read_pairs(path: str) -> list[tuple[bytes, bytes]]:
    """Returns the (input, target) pairs of a file: objects of `.jsonl`, or columns.

    `.csv` names its columns like the fields of objects; in other files a tab follows the input.
    Pairs without an input have an empty one.
    """
    if kind_of(path) in (CSV, ".jsonl"):
        return [(x, y) for x, y in _named_texts(path, _INPUT_KEYS, _TARGET_KEYS)]
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        *inputs, target = line.split(b"\t")
        if len(inputs) > 1:
            what = f"{path}:{number}: {len(inputs) + 1} columns"
            raise InputError(f"{what}, not an input and a target")
        pairs.append((inputs[0] if inputs else b"", target))
    return pairs


def read_lines(path: str) -> list[bytes]:
    """Returns lines of any bytes without ends ("-": stdin); `.tsv` without blank last lines."""
    if path == "-":
        text = agreed_bytes(lambda: standard_input().read())
        content: Iterable[bytes] = [text.removeprefix(codecs.BOM_UTF8)]
    else:
        content = blocks(path)
    lines = list(whole_lines(path, content))
    while kind_of(path) == ".tsv" and lines and not lines[-1]:
        lines.pop()
    return lines


def _named_texts(path: str, *columns: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
    """Yields texts by their names, of which each has several; all but the last may be missing."""
    if kind_of(path) == ".jsonl":
        for number, line in enumerate(read_lines(path), 1):
            yield _json_texts(f"{path}:{number}", line, columns)
        return
    records = csv_records(path, blocks(path))
    _, header = next(records, (1, []))
    names = [name.decode("utf-8", "replace") for name in header]
    places = [next((names.index(key) for key in keys if key in names), None) for keys in columns]
    if places[-1] is None:
        what = f'{path}:1: no column is called "{columns[-1][0]}"'
        raise InputError(f"{what}: the first line names {', '.join(names) or 'nothing'}")
    for number, values in records:
        if len(values) != len(header):
            what = f"{path}:{number}: {len(values)} values"
            raise InputError(f"{what} where the first line names {len(header)}")
        yield tuple(b"" if place is None else values[place] for place in places)


def _json_texts(place: str, line: bytes, columns: Sequence[Sequence[str]]) -> tuple[bytes, ...]:
    """Returns the texts of an object; of one column the line may also be the text alone."""
    try:
        fields = json_value(line)
    except BadRecordError as error:
        reason = str(error).removeprefix("it is not JSON: ")
        raise InputError(f"{place}: no JSON: {reason}") from None
    if isinstance(fields, str) and len(columns) == 1:
        fields = {columns[0][0]: fields}
    texts = []
    for keys in columns:
        default = None if keys is columns[-1] else ""
        values = [fields[key] for key in keys if key in fields] if isinstance(fields, dict) else []
        text = next(iter(values), default)
        if not isinstance(text, str):
            raise InputError(f'{place}: no text called "{keys[0]}" (or {", ".join(keys[1:])})')
        texts.append(text.encode("utf-8", "surrogatepass"))
    return tuple(texts)


def agreed_bytes(read: Callable[[], bytes]) -> bytes:
    """Returns the result of `read` in the first process: only it has standard input."""
    # Any bytes are characters in this encoding, and messages between processes are text.
    return processes.by_first(lambda: read().decode("latin-1")).encode("latin-1")


def standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("standard input is closed: name a file with --input=FILE")
    return sys.stdin.buffer


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
