"""What a run's configuration has changed in the files of the package that it began with."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from mtfrun.configuration import config
from mtfrun.configuration.files import SHIPPED, shipped_gin_files
from mtfrun.configuration.hyperparameters import values_of
from mtfrun.errors import InputError
from mtfrun.errors.differences import Change, changes

_REQUIRED = re.compile(r"^([A-Z_]+) *= *%gin\.REQUIRED", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`files` are the shipped gin files; `note` says why nothing is compared, or is ""."""

    files: Sequence[str]
    changes: Sequence[Change] = ()
    note: str = ""


def compare_with_shipped(files: Sequence[str], values: Mapping[str, str]) -> Comparison:
    """Compares a recorded configuration with the gin files that the command has named.

    Only files of the package are parsed: a gin file is code, and the record may be anybody's.
    """
    if not files:
        return Comparison((), note="The command that began the run names no gin file.")
    foreign = ", ".join(sorted(set(files).difference(shipped_gin_files())))
    if foreign:
        note = (
            f"{foreign}: not among the files of mtfrun, with which alone a configuration is "
            "compared; the command below has the flags."
        )
        return Comparison(files, note=note)
    required = {
        name: values[name]
        for file in files
        for name in _REQUIRED.findall((SHIPPED / file).read_text("utf-8"))
        if _is_literal(values.get(name, ""))  # a reference would be parsed as the user's code
    }
    try:
        shipped = _values_of_files(tuple(files), tuple(required.items()))
    except InputError as error:
        return Comparison(files, note=f"The files cannot be parsed alone: {error}")
    return Comparison(files, changes(shipped | dict.fromkeys(required), values))


@functools.cache
def _values_of_files(
    files: tuple[str, ...], bindings: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    from mtfrun.experiment.runs.opening import Settings  # noqa: PLC0415 - imports TensorFlow

    flags = [(name, f"{name} = {value}") for name, value in bindings]
    with config.exclusive():
        Settings([str(SHIPPED / name) for name in files], flags).parse()
        return values_of(config.config_text())


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
