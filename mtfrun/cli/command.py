"""The interface of a command, and flags that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mtfrun.configuration.entry_points import load_entry_points, warn_of_broken
from mtfrun.errors import InputError, checks
from mtfrun.errors.untrusted import is_directory
from mtfrun.files import is_url

if TYPE_CHECKING:
    from mtfrun.experiment.runs.opening import ConfiguredData

PathKind = (
    Literal["run", "input", "model", "directory", "adapter", "checkpoint"]
    | Literal["new file", "new directory"]
)
"""What a flag that is declared with `path=` must name; see `check_paths`."""
GROUP = "mtfrun.commands"
"""The group of entry points that name modules with COMMANDS."""


class Command(NamedTuple):
    """A command: its name (one word, or two such as "data show"), its help text and its function.

    The list of commands shows the first line of `description`. `run` gets the flags, and the words
    as typed, the program first; it returns the exit code and imports what it needs, since many
    modules import TensorFlow. `check` raises InputError for flags that cannot be used. The help
    shows the flags of gin only if the `subject` is a configuration, --model_dir also if it is a
    run. `words` names its other arguments, such as "DIR ...", or "": `flags.words`. `writes_run`:
    whether it changes the run of --model_dir, which may be a URL if `takes_url`. `prints_texts`:
    whether it prints texts of data or of the model, where URLs are not masked. `model_dir`:
    what --model_dir must name, unless gin files are given; by default a run if that is the subject.
    `is_configured`: whether gin files, if there are any, and flags are a whole configuration.
    `imports_tensorflow`: whether, or for which flags, TensorFlow is imported before the run.
    `several_processes`: whether `mtfrun launch` and SLURM can run it as several processes.
    `around` is a context around a run that imports TensorFlow, entered before the import.
    """

    name: str
    description: str
    run: Callable[[argparse.Namespace, Sequence[str]], int]
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda _: None
    check: Callable[[argparse.Namespace], None] = lambda _: None
    imports_tensorflow: bool | Callable[[argparse.Namespace], bool] = True
    subject: Literal["configuration", "run", "nothing"] = "configuration"
    words: str = ""
    writes_run: bool = False
    takes_url: bool = True
    prints_texts: bool = False
    model_dir: PathKind | None = None
    is_configured: bool = True
    several_processes: bool = False
    around: Callable[[argparse.Namespace], AbstractContextManager[object]] = lambda _: (
        contextlib.nullcontext()
    )


@functools.cache
def added_modules() -> Mapping[str, Any]:
    """Returns the modules with COMMANDS that entry points name; a broken entry is a warning."""
    modules = {}
    for entry, module in load_entry_points(GROUP).items():
        commands = getattr(module, "COMMANDS", None)
        if isinstance(commands, Sequence) and all(isinstance(x, Command) for x in commands):
            modules[entry] = module
        else:
            warn_of_broken(
                GROUP, entry, "it must name a module whose COMMANDS is a list of Command"
            )
    return modules


GIN_HELP = """\
configuration:
  gin files are searched in the working directory, in --gin_search_paths, then among the files of
  the package (runs/quickstart.gin, models/lm_small.gin, layouts/2x2.gin, ...). Later files and
  flags override earlier ones. Macros in capitals are meant to be overridden:

    --gin.TRAIN_STEPS=100                          a macro
    --gin.MESH_SHAPE="'data:2,model:2'"            a string needs quotes within quotes
    --gin.FeedForward.d_ff=512                     a parameter of a class or function
    --gin_param="Training.optimizer = @Adam()"     the same, as gin writes it

  `mtfrun config show` lists the files of the package, with --gin_file all settings of a run.
  As in T5 and T5X: --gin_bindings is --gin_param, --gin_location_prefix=DIR,DIR searches gin files
  there too, --module_import=MODULE imports a module for classes that flags name, and
  --tfds_data_dir=DIR is --gin.TFDS_DATA_DIR="'DIR'". -flag and --flag=VALUE may be written too.
"""


RUN_HELP = """\
Without --gin_file the configuration is --model_dir/config.gin, which may import mtfrun alone:
--gin_allow_imports=my_models names other modules that you trust. Without --model_dir --gin_file
describes the model, with the values of any checkpoint that training could start from:
--gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""


# Flags that are lists: their names, what a value is called, and their help.
_LISTS = (
    (("--gin_file",), "FILE", "a gin file"),
    (("--gin_param", "--gin_bindings"), "B", "a gin binding"),
    (("--gin_search_paths",), "DIRS", f"directories of gin files, separated by {os.pathsep!r}"),
    (
        ("--gin_allow_imports",),
        "MODULES",
        "modules that the configuration in a run directory may use besides mtfrun, with all below "
        "them, separated by commas; what --gin_file names may use anything",
    ),
    (("--gin_location_prefix",), "DIRS", "as in T5: directories of gin files, separated by commas"),
    (
        ("--module_import",),
        "MODULE",
        "as in T5: a module, which is imported; flags may name its classes",
    ),
)


def add_shared_flags(parser: argparse.ArgumentParser, command: Command) -> None:
    subject = command.subject
    text = argparse.SUPPRESS if subject == "nothing" else "the directory of the run"
    kind = command.model_dir or ("run" if subject == "run" else None)
    parser.add_argument("--model_dir", help=text, metavar="DIR", path=kind)

    def add(*names: str, **options: Any) -> None:
        hidden = {} if subject == "configuration" else {"help": argparse.SUPPRESS}
        parser.add_argument(*names, **{**options, **hidden})

    for names, metavar, text in _LISTS:
        add(*names, action="append", default=[], metavar=metavar, help=f"{text}; repeatable")
    add(
        "--skip_bad_records",
        type=int,
        help="the same as --gin.SKIP_BAD_RECORDS=N: how many malformed records of a split are left "
        "out, with a warning that counts them",
    )
    text = "as in T5X: the directory of TFDS datasets, the same as --gin.TFDS_DATA_DIR=\"'DIR'\""
    add(*("--tfds_data_dir", "--t5_tfds_data_dir"), help=text, metavar="DIR")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and TensorFlow's log")


def check_shared(flags: argparse.Namespace) -> None:
    """Splits the flags that are lists, and raises InputError for invalid values."""
    flags.gin_search_paths = [
        *(path for paths in flags.gin_search_paths for path in paths.split(os.pathsep) if path),
        *(path for paths in flags.gin_location_prefix for path in paths.split(",") if path),
    ]
    for flag in ("gin_allow_imports", "module_import"):
        modules = [name for names in getattr(flags, flag) for name in names.split(",") if name]
        setattr(flags, flag, modules)
        for name in modules:
            if not all(map(str.isidentifier, name.split("."))):
                example = f"--{flag}=my_models,my_data.text"
                raise InputError(f"--{flag}={name}: not the name of a module; write {example}")
    # pathlib's expanduser raises for the name of an unknown user.
    path = os.path.abspath(os.path.expanduser(flags.model_dir or ""))  # noqa: PTH100
    if any("\udc80" <= character <= "\udcff" for character in path):
        raise InputError(f"--model_dir={flags.model_dir}: the path is not UTF-8: rename it")


def require_gin_files(flags: argparse.Namespace) -> None:
    if not flags.gin_file:
        raise InputError(f"{flags.command} needs a configuration: --gin_file=runs/quickstart.gin")


def require_configuration(flags: argparse.Namespace) -> None:
    if not flags.gin_file and flags.model_dir is None:
        raise InputError(f"{flags.command} needs a configuration: --gin_file= or --model_dir=")


def require_model_dir(flags: argparse.Namespace) -> None:
    if flags.model_dir is None:
        raise InputError(f"{flags.command} needs the directory of a run: --model_dir=/tmp/run")


def check_directories(flags: argparse.Namespace) -> None:
    """Raises InputError for words that are not directories, URLs or a sweep's results (.jsonl)."""
    for word in flags.words:
        path = pathlib.Path(os.path.expanduser(word))
        is_results = path.suffix == ".jsonl" and path.is_file()
        if not (is_results or is_url(word) or is_directory(path)):
            raise InputError(f"{word} is not a directory: check its name")


def at_least(least: int, kind: type[int] | type[float] = int) -> Callable[[str], int | float]:
    """Returns the `type` of a flag that is a number in a range."""
    return in_range(checks.Range(least), kind)


def in_range(
    allowed: checks.Range | None, kind: type[int] | type[float]
) -> Callable[[str], int | float]:
    def convert(text: str) -> int | float:
        number = kind(text)
        if allowed is not None and number not in allowed:
            raise argparse.ArgumentTypeError(f"={text}: it must be {allowed}")
        return number

    convert.__name__ = kind.__name__  # for argparse's errors
    return convert


def not_empty(text: str) -> str:
    """The `type` of flags without another: not empty, as in --output=."""
    if not text:
        raise argparse.ArgumentTypeError(" needs a name")
    return text


def pattern(text: str) -> str:
    """The `type` of a flag that is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        problem = f"={text} is not a regular expression: {error}"
        raise argparse.ArgumentTypeError(problem) from None
    return text


def check_mesh(mesh: str | None, layout: str | None) -> None:
    for flag, text, pair, example in (
        ("--mesh", mesh, r"[^:]+:\d+", "data:2,model:2"),
        ("--layout", layout, r"[^:]+:[^:]+", "'batch:data;d_ff:model'"),
    ):
        for part in re.split(r"[;,.\s]+", (text or "").strip()):
            if part and not re.fullmatch(pair, part):
                raise InputError(f"{flag}={text}: not a {flag[2:]}: write {flag}={example}")


def configured_data(flags: argparse.Namespace) -> ConfiguredData:
    """Returns the data of the gin files, or else of the run."""
    from mtfrun.experiment.runs.opening import Settings, configure_data
    from mtfrun.rundir import RunDirectory

    path = None if flags.gin_file else RunDirectory(flags.model_dir).require_config()
    return configure_data(Settings.of_flags(flags), path)


def add_checkpoint(
    parser: argparse.ArgumentParser,
    text: str = "latest (default), best, or a step",
    default: str | None = "latest",
) -> None:
    parser.add_argument("--checkpoint", default=default, help=text, metavar="STEP")


def add_output(
    parser: argparse.ArgumentParser,
    text: str = "the file to write; standard output by default",
    default: str | None = None,
) -> None:
    parser.add_argument("--output", default=default, help=text, metavar="PATH", path="new file")


def add_format(
    parser: argparse.ArgumentParser, choices: Sequence[str], text: str, default: str | None = None
) -> None:
    parser.add_argument("--format", choices=choices, default=default, help=text)


def add_json(parser: argparse.ArgumentParser, text: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        help="the run of an adapter that was trained for this model, or its name in "
        "--model_dir/adapters",
        path="adapter",
    )


def check_run(flags: argparse.Namespace, *checkpoints: str) -> None:
    if not flags.gin_file:
        require_model_dir(flags)
    if flags.model_dir is None and (flags.checkpoint != "latest" or flags.adapter is not None):
        raise InputError("--checkpoint and --adapter are about a run: give its --model_dir")
    if flags.checkpoint not in checkpoints and not flags.checkpoint.isdecimal():
        choices = " nor ".join(checkpoints)
        raise InputError(f"--checkpoint={flags.checkpoint} is neither a step nor {choices}")
