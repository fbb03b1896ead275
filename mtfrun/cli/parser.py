from __future__ import annotations

import argparse
import functools
import os
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from mtfrun import __version__
from mtfrun.cli import command as cli
from mtfrun.cli.commands import (
    checkpoint_values,
    checkpoints,
    config,
    data_cache,
    data_vocab,
    decode,
    export,
    import_run,
    launch,
    runs,
    score,
    train,
)
from mtfrun.cli.commands import eval as eval_command
from mtfrun.cli.process_flags import add_process_flags, check_processes
from mtfrun.configuration.entry_points import entry_points
from mtfrun.configuration.files import shipped_gin_files
from mtfrun.errors import InputError, did_you_mean, shorten
from mtfrun.errors.url_secrets import mask_urls

GIN_PREFIX = "--gin."

_DESCRIPTION = """\
Trains, evaluates and runs models that gin files describe, on one device or on a mesh of many.

  mtfrun train  --gin_file=runs/quickstart.gin --model_dir=/tmp/run
  mtfrun eval   --model_dir=/tmp/run
  mtfrun decode --model_dir=/tmp/run --prompt="The "
  mtfrun runs /tmp/run --curves
  tensorboard --logdir /tmp/run
  mtfrun launch -n 2 -- train --gin_file=... --model_dir=/tmp/run
  mtfrun config show --gin_file=runs/quickstart.gin
  mtfrun checkpoints list --model_dir=/tmp/run
  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=tensorflow
  source <(mtfrun --completion bash)    completes commands, flags and gin files; zsh, fish as well

mtfrun help COMMAND, or mtfrun COMMAND --help, explains a command; mtfrun version is the version.

Exit codes: 0; 2 for bad input, one line with the remedy; 3 where a model's numbers are infinite or
not a number; 4 where another process of the run has ended; 5 where numbers that a command compares
are unequal, or a file is damaged; 6 for too little memory; 128 + number for a signal; 1 for a
defect, with its traceback."""

_GROUPS = {
    "checkpoints": """\
Lists, shows, verifies, compares, averages and deletes the checkpoints of a run.

--model_dir may also be a directory of checkpoints itself, such as /tmp/run/checkpoints.1.""",
    "config": "Looks at configurations. Nothing is built, no data are read, no device is used.",
    "data": "Commands about the data of a configuration. They build no model and use no device.",
}

_MODULES = (
    *(train, eval_command, decode, score, launch, import_run, export),
    *(config, data_cache, data_vocab),
    *(checkpoints, checkpoint_values, runs),
)
_METAVARS: dict[cli.PathKind, str] = {"input": "FILE", "new file": "FILE", "model": "PATH"}
_ONE_DASH = re.compile(r"-[A-Za-z][A-Za-z_]")
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


@functools.cache
def all_commands() -> dict[str, cli.Command]:
    """Returns the commands by name, in the order of the help text: the core's come first.

    Raises:
      InputError: two entry points have a command of the same name.
    """
    commands = {command.name: command for module in _MODULES for command in module.COMMANDS}
    sources = dict.fromkeys(commands, "mtfrun")
    for entry, module in cli.added_modules().items():
        source = f"{entry!r} of {entry_points(cli.GROUP)[entry][0]}"
        for command in module.COMMANDS:
            if command.name in commands:
                both = f"{sources[command.name]} and {source}"
                raise InputError(f"{both} have a command {command.name!r}: uninstall one of them")
            commands[command.name], sources[command.name] = command, source
    return commands


@functools.cache
def _groups() -> dict[str, str]:
    """Returns the descriptions of first words that have several commands."""
    groups = dict(_GROUPS)
    for module in cli.added_modules().values():
        groups |= getattr(module, "GROUPS", {})
    return groups


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError where argparse would print its usage and exit.

    Attributes:
      paths: flags for paths: their spelling, their attribute, and the kind of path.
    """

    def __init__(self, **options: Any) -> None:
        self.paths: list[tuple[str, str, cli.PathKind]] = []
        super().__init__(**options)

    def add_argument(
        self, *names: str, path: cli.PathKind | None = None, **options: Any
    ) -> argparse.Action:
        if names[0].startswith("--") and not {"action", "choices", "type"} & options.keys():
            options["type"] = cli.not_empty
        action = super().add_argument(*names, **options)
        if path is not None:
            flag = f"{names[0]}=" if action.option_strings else ""
            self.paths.append((flag, action.dest, path))
        return action

    def switches(self) -> list[str]:
        flags = self._option_string_actions.items()
        return [x.removeprefix("--") for x, y in flags if y.const is True and x.startswith("--")]

    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (?:\S+/)?(\S+): (.*)", message)
        if match is None:
            raise InputError(f"{message} ({self.prog} --help explains)")
        flag, problem = match.groups()
        if problem[0] in " =":  # of a type in command.py
            raise InputError(flag + problem)
        if problem == "expected one argument":
            raise InputError(f"{flag} needs a value: {flag}=...")
        if problem.startswith("ignored explicit argument"):
            raise InputError(f"{flag} takes no value: write {flag} alone")
        if wrong := re.fullmatch(r"invalid (int|float) value: '(.*)'", problem):
            kind = "a whole number" if wrong[1] == "int" else "a number"
            raise InputError(f"{flag}={wrong[2]}: it must be {kind}")
        if wrong := re.fullmatch(r"invalid choice: '(.*)' \(choose from (.*)\)", problem):
            choices = wrong[2].replace("'", "")
            raise InputError(f"{flag}={wrong[1]}: choose one of {choices}")
        raise InputError(f"{flag}: {problem} ({self.prog} --help explains)")


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """`.bindings` are (flag, gin binding) pairs, `.launched` the flags behind `launch ... --`."""
    root, parsers = build_parsers()
    arguments = _ask_for_help(arguments)
    if arguments[0].startswith(("--version", "--completion")):
        shell = root.parse_args(arguments[:2]).completion  # exits after --version
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - rarely needed

        print(shellcode(["mtfrun"], shell=shell))
        raise SystemExit
    before, launched = _split_launched(arguments)
    plain, bindings = _split_gin_flags(_with_two_dashes(before))
    # Abbreviations of commands and flags are errors with the full name, not silently accepted.
    name, plain = _split_command(plain)
    if name in all_commands():
        plain = _with_plain_switches(plain, parsers[name].switches())
    flags, unknown = root.parse_known_args([*name.split(), *plain])
    if name not in all_commands():
        root.error(f"no command: write mtfrun train {shorten(shlex.join(plain), 200)}")
    if all_commands()[name].words:
        # argparse takes no words after flags if their number is not fixed.
        flags.words += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        raise InputError(_unknown(unknown[0], name, parsers[name]))
    flags.paths = parsers[name].paths
    flags.bindings = _bindings(flags, bindings)
    flags.launched = None if launched is None else parse_flags(launched)
    if flags.launched is not None and flags.launched.command not in _launched_commands():
        names = ", ".join(_launched_commands())
        raise InputError(f"launch runs {names}, not {flags.launched.command}")
    cli.check_shared(flags)
    if all_commands()[name].several_processes:
        check_processes(flags)
    all_commands()[name].check(flags)
    return flags


def build_parsers() -> tuple[Parser, dict[str, Parser]]:
    root = Parser(prog="mtfrun", description=_DESCRIPTION, **_STYLE)
    version, text = f"mtfrun {__version__}", "print the version of mtfrun"
    root.add_argument("--version", "-v", "-V", action="version", version=version, help=text)
    root.add_argument(
        "--completion",
        choices=("bash", "zsh", "fish"),
        help="print a script: `source <(mtfrun --completion bash)` in ~/.bashrc, zsh the same "
        "after compinit, `mtfrun --completion fish | source` in ~/.config/fish/config.fish",
    )
    words = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    subparsers: dict[str, Any] = {"": words}
    parsers = {}
    for command in all_commands().values():
        group = command.name.rpartition(" ")[0]
        if group not in subparsers:
            text = _groups()[group]
            parser = words.add_parser(group, help=_first_line(text), description=text, **_STYLE)
            subparsers[group] = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
        parsers[command.name] = _add_parser(command, subparsers[group])
    return root, parsers


def complete() -> None:
    """Answers a shell at the tab key, and ends the process."""
    import argcomplete  # noqa: PLC0415 - rarely needed
    from argcomplete.completers import FilesCompleter  # noqa: PLC0415 - as above

    def complete_gin_file(prefix: str, **_: Any) -> list[str]:
        shipped = [name for name in shipped_gin_files() if name.startswith(prefix)]
        return [*shipped, *FilesCompleter()(prefix)]

    root, parsers = build_parsers()
    for parser in parsers.values():
        for flag in ("--gin_file", "--sweep_file"):
            if action := parser._option_string_actions.get(flag):
                vars(action)["completer"] = complete_gin_file
    before, launched, line = os.environ["COMP_LINE"].partition(" -- ")
    if launched and "launch" in before.split():
        line = f"mtfrun {line}"
        os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line.encode())))
    argcomplete.autocomplete(root)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows words as `Command.words` has them; argparse would show "[DIR ...]" for each."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        is_words = action.nargs == argparse.ZERO_OR_MORE
        return str(action.metavar) if is_words else super()._format_args(action, default_metavar)


_STYLE: dict[str, Any] = {"formatter_class": _HelpFormatter, "allow_abbrev": False}


def _add_parser(command: cli.Command, words: Any) -> Parser:
    epilog = cli.GIN_HELP if command.subject == "configuration" else None
    if command.name == "launch":
        epilog = f"commands: {', '.join(_launched_commands())}"
    parser: Parser = words.add_parser(
        command.name.rpartition(" ")[2],
        help=_first_line(command.description),
        description=command.description,
        epilog=epilog,
        **_STYLE,
    )
    parser.set_defaults(command=command.name)
    if command.words:
        parser.add_argument("words", nargs="*", metavar=command.words)
    command.add_flags(parser)
    if command.several_processes:
        add_process_flags(parser)
    cli.add_shared_flags(parser, command)
    kinds = {name: kind for _, name, kind in parser.paths}
    for action in parser._actions:
        if (action.metavar, action.nargs, action.choices) == (None, None, None):
            is_number = getattr(action.type, "__name__", "") in ("int", "float")
            action.metavar = "N" if is_number else "NAME"
            if kind := kinds.get(action.dest):
                action.metavar = _METAVARS.get(kind, "DIR")
    return parser


def _launched_commands() -> list[str]:
    return [name for name, command in all_commands().items() if command.several_processes]


def _first_line(description: str) -> str:
    return description.split("\n", maxsplit=1)[0].rstrip(".")


def _ask_for_help(arguments: Sequence[str]) -> Sequence[str]:
    if not arguments or arguments[0] == "help":
        return [*(word for word in arguments[1:] if word not in ("help", "version")), "--help"]
    if list(arguments) == ["version"]:
        return ["--version"]
    if arguments[-1] == "help" and " ".join(arguments[:-1]) in {*all_commands(), *_groups()}:
        return [*arguments[:-1], "--help"]
    return arguments


def _split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Flags may stand before the command. A group's name alone is an error, except for its help."""
    words = [i for i, argument in enumerate(arguments) if not argument.startswith("-")]
    name = " ".join(arguments[i] for i in words[:1])
    if name in _groups():
        commands = [command for command in all_commands() if command.startswith(f"{name} ")]
        if len(words) > 1:
            name = " ".join(arguments[i] for i in words[:2])
            if name not in commands:
                hint = did_you_mean(name, commands) or f"; there are {', '.join(commands)}"
                raise InputError(f"no command {name!r}{hint}")
        elif not {"--help", "-h"} & set(arguments):
            raise InputError(f"{name} needs a command: {', '.join(commands)}")
    elif name and name not in all_commands():
        first_words = dict.fromkeys(name.partition(" ")[0] for name in all_commands())
        hint = did_you_mean(name, [*first_words, "help", "version"])
        raise InputError(f"no command {name!r}{hint or '; there are ' + ', '.join(first_words)}")
    name_places = words[: len(name.split())]
    return name, [argument for i, argument in enumerate(arguments) if i not in name_places]


def _unknown(text: str, command: str, parser: Parser) -> str:
    if text.endswith(".gin"):
        return f"{text} is a gin file: write --gin_file={shlex.quote(text)}"
    if not text.startswith("-"):
        return f"{command} takes no words such as {text!r}, only flags"
    flag = text.partition("=")[0]
    shown = [x for x, y in parser._option_string_actions.items() if y.help != argparse.SUPPRESS]
    hint = did_you_mean(flag, shown) or f"; mtfrun {command} --help lists its flags"
    return f"no flag {flag}{hint}"


def _bindings(
    flags: argparse.Namespace, gin_flags: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    bindings = [*((f"--gin_param={text}", text) for text in flags.gin_param), *gin_flags]
    for name in ("tfds_data_dir", "skip_bad_records"):
        value = getattr(flags, name)
        if value is not None:
            bindings.append((f"--{name}={value}", f"{name.upper()} = {value!r}"))
    return [(mask_urls(flag), text) for flag, text in bindings]


def _split_launched(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    position = arguments.index("--") if "--" in arguments else len(arguments)
    before, launched = list(arguments[:position]), list(arguments[position + 1 :])
    if "launch" not in before:
        return list(arguments), None
    for word in before:
        if word in _launched_commands():
            raise InputError(f"launch: write -- before {word}: mtfrun launch -n 2 -- {word} ...")
    return before, launched or None


def _split_gin_flags(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The value may be a separate argument: --gin.TRAIN_STEPS 100."""
    plain: list[str] = []
    bindings = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith(GIN_PREFIX):
            plain.append(argument)
            continue
        if "=" not in argument and remaining and not remaining[0].startswith("--"):
            argument = f"{argument}={remaining.pop(0)}"
        name, equals, value = argument.removeprefix(GIN_PREFIX).partition("=")
        if not equals or not name or not value:
            raise InputError(f"{argument} needs a name and a value: {GIN_PREFIX}TRAIN_STEPS=100")
        bindings.append((argument, f"{name} = {value}"))
    return plain, bindings


def _with_two_dashes(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with -flag as --flag.

    >>> _with_two_dashes(["-gin_file=a.gin", "-gin.SEED=1", "-n", "2", "-"])
    ['--gin_file=a.gin', '--gin.SEED=1', '-n', '2', '-']
    """
    return [f"-{text}" if _ONE_DASH.match(text) else text for text in arguments]


def _with_plain_switches(arguments: Sequence[str], switches: Collection[str]) -> list[str]:
    """Returns the arguments with --switch=true as --switch, without --noswitch, --switch=false.

    >>> _with_plain_switches(["--debug=true", "--noprofile", "--json=0"], ["debug", "profile"])
    ['--debug', '--json=0']
    """
    plain = []
    for text in arguments:
        name, equals, value = text.removeprefix("--").partition("=")
        is_switch = text.startswith("--") and name in switches
        if is_switch and value.lower() in _TRUE:
            plain.append(f"--{name}")
        elif not (
            (is_switch and equals and value.lower() in _FALSE)
            or (text.startswith("--no") and text.removeprefix("--no") in switches)
        ):
            plain.append(text)
    return plain
