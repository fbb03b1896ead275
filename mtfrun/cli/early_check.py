"""Checks a configuration before TensorFlow is imported, which takes seconds.

A child process imports mtfrun with stubs for TensorFlow and other large libraries, which suffices
to parse a configuration and to check its values against the types of parameters.
"""

from __future__ import annotations

import abc
import argparse
import dataclasses
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun.cli.command import run_config, settings_of
from mtfrun.configuration.files import SHIPPED, find_gin_file
from mtfrun.errors import InputError

# Libraries that mtfrun's modules import but parsing does not need.
_STAND_INS = frozenset(
    {
        *("PIL", "array_record", "google", "grain", "matplotlib", "sacrebleu"),
        *("sentencepiece", "tensorboard", "tensorflow", "tensorflow_datasets"),
    }
)


# Commands that parse the files and bindings of their flags, and commands that parse a run's files
# if there are none.
_OF_FILES = frozenset({"train", "plan", "verify", "vocab train"})
_OF_RUNS = frozenset(
    {"eval", "decode", "score", "export", "config show", "data cache", "data show", "data stats"}
)
_OF_WORDS = "config diff"


def configuration_error(flags: argparse.Namespace) -> InputError | None:
    """Returns None also if only the command can tell, or if TensorFlow is imported already."""
    may_appear = getattr(flags, "continuous", False)
    if may_appear or "tensorflow" in sys.modules:
        return None
    directory = None
    files = [flags.gin_file] if flags.gin_file else []
    if flags.command == _OF_WORDS:
        words = [word for word in flags.words if find_gin_file(word, flags.gin_search_paths)]
        files = [[*flags.gin_file, word] for word in words]
    elif flags.command in _OF_RUNS and not files:
        directory = flags.model_dir
    elif flags.command not in _OF_FILES | _OF_RUNS:
        return None
    message = _in_a_child(lambda: _message(flags, files, directory))
    return InputError(message) if message else None


def _message(
    flags: argparse.Namespace, alternatives: Sequence[Sequence[str]], directory: str | None
) -> str:
    from mtfrun.configuration import config  # noqa: PLC0415 - imports gin

    sys.meta_path.insert(0, _StandIns())
    path = None
    try:
        if directory is not None:
            path = run_config(directory)
            alternatives = [[path]] if flags.bindings else []
        for files in alternatives:
            modules = config.check_statements(files, flags.bindings, flags.gin_search_paths)
            if not flags.bindings and len(files) == 1 and (SHIPPED / files[0]).is_file():
                continue  # a test checks its types
            # Importing other modules may have side effects: they are not imported twice.
            if {name.partition(".")[0] for name in [*modules, *flags.module_import]} <= {"mtfrun"}:
                dataclasses.replace(settings_of(flags), files=files).parse(path)
    except InputError as error:
        return str(error)
    return ""


def _in_a_child(function: Callable[[], str]) -> str:
    """Returns the result of a function that runs in a forked child, or nothing if it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(function().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode()
    os.waitpid(child, 0)
    return message


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in _STAND_INS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        value = _stand_in(name)
        setattr(self, name, value)
        return value


class _Meta(abc.ABCMeta):
    def __getattr__(cls, name: str) -> type:
        return _stand_in(name)


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Meta(name, (_StandIn,), {"__module__": "tensorflow"})


class _StandIn:
    def __init_subclass__(cls, **_: Any) -> None:
        pass

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else self

    def __getattr__(self, name: str) -> type:
        return _stand_in(name)
