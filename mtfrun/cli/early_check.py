"""Checks a configuration while TensorFlow is imported, which takes seconds.

A child process imports mtfrun with stubs for TensorFlow and other large libraries, which suffices
to parse a configuration and to check its values against the types of parameters.
"""

from __future__ import annotations

import _thread
import abc
import argparse
import contextlib
import dataclasses
import gc
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mtfrun.cli.command import run_config, settings_of
from mtfrun.configuration.files import SHIPPED, find_gin_file
from mtfrun.display import progress
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
# The answer of a child that has found no error, and has not checked all.
_UNCHECKED = "unchecked"


class EarlyCheck:
    """A check that begins at once; there is no error if only the command itself can tell.

    Nothing is checked if TensorFlow is imported already.
    """

    def __init__(self, flags: argparse.Namespace, num_processes: int = 1):
        self._child = _start_child(flags, num_processes)

    def error(self) -> InputError | None:
        """Waits for the end of the check."""
        message = "" if self._child is None else self._child.result()
        return InputError(message) if message else None

    @contextlib.contextmanager
    def interrupt_import(self) -> Iterator[None]:
        """Raises the error, as soon as it is known, from the imports inside."""
        if self._child is None:
            yield
            return
        error: InputError | None = None

        def wait() -> None:
            nonlocal error
            error = self.error()
            if error is not None:
                _thread.interrupt_main()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        try:
            yield
            thread.join()
        except KeyboardInterrupt:
            if error is None:
                raise
        if error is not None:
            raise error


def _start_child(flags: argparse.Namespace, num_processes: int) -> _Child | None:
    may_appear = getattr(flags, "continuous", False)
    if may_appear or "tensorflow" in sys.modules:
        return None
    directory = None
    files = [flags.gin_file] if flags.gin_file else []
    if flags.command == _OF_WORDS:
        words = [word for word in flags.words if find_gin_file(word, flags.gin_search_paths)]
        files = [[*flags.gin_file, word] for word in words]
    elif flags.command in _OF_RUNS and not files:
        if getattr(flags, "adapter", None) is not None:  # its configuration is found with the run
            return None
        directory = flags.model_dir
    elif flags.command not in _OF_FILES | _OF_RUNS:
        return None
    return _Child(lambda: _message(flags, files, directory, num_processes) or "")


def _message(
    flags: argparse.Namespace,
    alternatives: Sequence[Sequence[str]],
    directory: str | None,
    num_processes: int = 1,
    *,
    imports_modules: bool = False,
) -> str | None:
    """Returns the error of a configuration, or "".

    None if it names modules of the user, of which only the statements are checked, unless
    `imports_modules`: an import may have side effects.
    """
    from mtfrun.configuration import config  # noqa: PLC0415 - imports gin

    path, is_whole = None, True
    try:
        if directory is not None:
            path = run_config(directory)
            alternatives = [[path]] if flags.bindings else []
        for files in alternatives:
            modules = config.check_statements(files, flags.bindings, flags.gin_search_paths)
            is_shipped = not flags.bindings and len(files) == 1 and (SHIPPED / files[0]).is_file()
            if is_shipped and num_processes == 1:
                continue  # a test checks its types
            roots = {name.partition(".")[0] for name in [*modules, *flags.module_import]}
            if not imports_modules and not roots <= {"mtfrun"}:
                is_whole = False
                continue
            dataclasses.replace(settings_of(flags), files=files).parse(path)
            if num_processes > 1:
                _check_division(num_processes)
    except InputError as error:
        return str(error)
    return "" if is_whole else None


def _check_division(num_processes: int) -> None:
    from mtfrun import mtf  # noqa: PLC0415 - imports stubs
    from mtfrun.configuration import config  # noqa: PLC0415 - imports gin
    from mtfrun.mtf.devices import check_division  # noqa: PLC0415 - imports stubs

    check_division(mtf.convert_to_shape(config.argument(mtf.Mesh, "shape")), num_processes)


def first_error(trainings: Sequence[argparse.Namespace]) -> tuple[int, InputError] | None:
    """Returns the number and error of the first training that is configured wrong, or None.

    If a configuration names modules of the user, they are imported in a child process, together
    with TensorFlow.
    """
    if "tensorflow" in sys.modules:
        return None

    def check(*, imports_modules: bool) -> str:
        answer = ""
        for number, flags in enumerate(trainings):
            message = _message(flags, [flags.gin_file], None, imports_modules=imports_modules)
            if message:
                return f"{number} {message}"
            if message is None:
                answer = _UNCHECKED
        return answer

    result = _Child(lambda: check(imports_modules=False)).result()
    if result == _UNCHECKED:
        with progress.waiting("checking the rows with your modules"):
            result = _Child(lambda: check(imports_modules=True), has_stubs=False).result()
    number, _, message = result.partition(" ")
    return (int(number), InputError(message)) if message else None


class _Child:
    """A forked child, by default with stubs for large libraries, that calls a function."""

    def __init__(self, function: Callable[[], str], *, has_stubs: bool = True):
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                    os.dup2(nowhere.fileno(), 1)
                    os.dup2(nowhere.fileno(), 2)
                gc.disable()  # imports take a fifth longer with it
                if has_stubs:
                    sys.meta_path.insert(0, _StandIns())
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(function().encode())
            finally:
                os._exit(0)
        os.close(writer)

    def result(self) -> str:
        """Returns the function's result, or nothing if it has raised; to be called once."""
        with os.fdopen(self._reader, "rb") as pipe:
            result = pipe.read().decode()
        os.waitpid(self._pid, 0)
        return result


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
