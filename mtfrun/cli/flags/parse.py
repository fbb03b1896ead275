"""The command line: all commands, and the parser of their flags."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Sequence
from typing import NoReturn

from mtfrun import __version__
from mtfrun.cli.flags.absl_spelling import with_plain_switches, with_two_dashes
from mtfrun.cli.flags.checkpoints import CHECKPOINTS
from mtfrun.cli.flags.completion import COMPLETION
from mtfrun.cli.flags.config import CONFIG
from mtfrun.cli.flags.conversion import EXPORT, IMPORT
from mtfrun.cli.flags.curves import CURVES
from mtfrun.cli.flags.data import DATA
from mtfrun.cli.flags.decode import DECODE
from mtfrun.cli.flags.evaluate import EVAL
from mtfrun.cli.flags.launch import LAUNCH, LAUNCHED
from mtfrun.cli.flags.other_programs import run_mode_answer, unknown_answer, word_answer
from mtfrun.cli.flags.plan import PLAN
from mtfrun.cli.flags.runs import RUNS
from mtfrun.cli.flags.score import SCORE
from mtfrun.cli.flags.shared import GIN_HELP, add_shared_flags, check_shared
from mtfrun.cli.flags.sweep import SWEEP
from mtfrun.cli.flags.train import TRAIN
from mtfrun.cli.flags.verify import VERIFY
from mtfrun.cli.flags.vocab import VOCAB
from mtfrun.errors import InputError, did_you_mean

GIN_PREFIX = "--gin."

_DESCRIPTION = """\
Trains, evaluates and runs models that gin files describe, on one device or on a mesh of many.

  mtfrun train  --gin_file=runs/quickstart.gin --model_dir=/tmp/run
  mtfrun eval   --model_dir=/tmp/run
  mtfrun decode --model_dir=/tmp/run --prompt="The "
  tensorboard --logdir /tmp/run
  mtfrun import --from=/models/t5-small --model_dir=/tmp/t5
  mtfrun export --model_dir=/tmp/t5 --to=/models/mine --format=huggingface
  mtfrun config show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun launch -n 2 -- train --gin_file=... --model_dir=/tmp/run
  source <(mtfrun completion bash)      completes commands, flags and gin files; zsh, fish as well
  mtfrun sweep --gin_file=runs/quickstart.gin --gin.LEARNING_RATE=0.01,0.1 --model_dir=/tmp/sweep
  mtfrun runs /tmp/sweep
  mtfrun checkpoints list --model_dir=/tmp/run

mtfrun help COMMAND, or mtfrun COMMAND --help, explains a command; mtfrun version is the version.

Exit codes: 0; 2 for bad input, one line with the remedy; 3 where a model's numbers are infinite or
not a number; 4 where another process of the run has ended; 5 where verify finds unequal numbers, or
checkpoints verify a damaged file; 6 where plan finds too little memory; 128 + number for a signal;
1 for a defect, with its traceback."""

# By name, in the order of the help text.
COMMANDS = {
    command.name: command
    for command in (
        *(TRAIN, EVAL, DECODE, SCORE, IMPORT, EXPORT),
        *(LAUNCH, PLAN, VERIFY),
        *(CURVES, COMPLETION),
        *(SWEEP, RUNS),
        *CHECKPOINTS,
        *CONFIG,
        *DATA,
        *VOCAB,
    )
}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        match = re.fullmatch(r"argument (?:\S+/)?(\S+): (.*)", message)
        if match is None:
            raise InputError(f"{message} ({self.prog} --help explains)")
        flag, problem = match.groups()
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
    """Returns the flags; `.command` is the subcommand, `.bindings` has (flag, gin binding) pairs.

    `.launched` are the flags of the command that follows "--" after `launch`, else None.

    Raises:
      InputError: the command or a flag does not exist, or a value is invalid.
    """
    root, commands = _parsers()
    own, launched = _split_launched(_asking(arguments, commands))
    plain, bindings = _split_gin_flags(with_two_dashes(own))
    plain = _joined_command(plain, commands)
    answer = run_mode_answer(plain, commands)
    if answer is not None:
        raise InputError(answer)
    # Abbreviations of commands and flags are errors with the full name, not silently accepted.
    command = next((a for a in plain if not a.startswith("-")), None)
    if command is not None and command not in commands:
        raise InputError(_no_command(command, commands))
    if command is not None and "--version" not in plain:
        plain.remove(command)
        plain = [command, *plain]  # flags of all commands may stand before it
        plain = with_plain_switches(plain, _switches(commands[command]))
    flags, unknown = root.parse_known_args(plain)
    if flags.command is None:
        root.error(_without_command(plain))
    if COMMANDS[flags.command].takes_words:
        # argparse takes no words after flags if their number is not fixed.
        flags.words = [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        flags_of = {name: _flag_names(parser) for name, parser in commands.items()}
        raise InputError(unknown_answer(unknown, flags.command, flags_of))
    flags.bindings = _bindings(flags, bindings)
    flags.launched = None if launched is None else parse_flags(launched)
    check_shared(flags)
    COMMANDS[flags.command].check(flags)
    return flags


def _asking(arguments: Sequence[str], commands: Collection[str]) -> Sequence[str]:
    """Returns arguments with the words "help" and "version" replaced by --help and --version."""
    if list(arguments) in ([], ["help"], ["help", "help"], ["help", "version"]):
        return ["--help"]
    if list(arguments) == ["version"]:
        return ["--version"]
    if arguments[0] == "help":
        return [*arguments[1:], "--help"]
    if arguments[-1] == "help" and " ".join(arguments[:-1]) in commands:
        return [*arguments[:-1], "--help"]
    return arguments


def _without_command(arguments: Sequence[str]) -> str:
    """Returns the message about flags without a command."""
    flags = shlex.join(arguments)
    return f"no command: write mtfrun train {flags if len(flags) <= 200 else '...'}"


def _no_command(word: str, commands: Collection[str]) -> str:
    """Returns the message about a first word that is no command."""
    answer = word_answer(word)
    if answer is not None:
        return f"{answer}, after a command such as mtfrun train"
    hint = (
        did_you_mean(word, [*commands, "help", "version"]) or f"; there are {', '.join(commands)}"
    )
    return f"no command {word!r}{hint}"


def _switches(parser: Parser) -> list[str]:
    """Returns the names of the flags of a command that have no value, without their dashes."""
    return [
        name.removeprefix("--")
        for name, action in parser._option_string_actions.items()
        if name.startswith("--") and action.const is True
    ]


def _flag_names(parser: Parser) -> list[str]:
    """Returns the flags of a command that its help text shows."""
    return [
        name
        for name, action in parser._option_string_actions.items()
        if action.help != argparse.SUPPRESS
    ]


def _bindings(
    flags: argparse.Namespace, of_gin_flags: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Returns pairs of a flag and its gin binding, of all flags that are settings."""
    bindings = [(f"--gin_param={text}", text) for text in flags.gin_param]
    bindings += of_gin_flags
    if flags.tfds_data_dir is not None:
        binding = f"TFDS_DATA_DIR = {flags.tfds_data_dir!r}"
        bindings.append((f"--tfds_data_dir={flags.tfds_data_dir}", binding))
    if flags.skip_bad_records is not None:
        binding = f"SKIP_BAD_RECORDS = {flags.skip_bad_records}"
        bindings.append((f"--skip_bad_records={flags.skip_bad_records}", binding))
    return bindings


def _split_launched(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Returns the arguments before "--", and those after it, None without it; of `launch` only."""
    own: list[str] = list(arguments)
    launched: list[str] | None = None
    if "--" in own:
        position = own.index("--")
        own, launched = own[:position], own[position + 1 :]
    if LAUNCH.name not in own:
        return list(arguments), None
    command = next((word for word in own if word in LAUNCHED), None)
    if command is not None:
        raise InputError(
            f"launch: -- comes before the command: mtfrun launch -n 2 -- {command} ..."
        )
    return own, launched


def _joined_command(arguments: Sequence[str], commands: Collection[str]) -> list[str]:
    """Returns the arguments, with the two words of a command such as "data show" as one."""
    families = {name.partition(" ")[0] for name in commands if " " in name}
    words = [i for i, argument in enumerate(arguments) if not argument.startswith("-")]
    if len(words) < 2 or arguments[words[0]] not in families:
        return list(arguments)
    first, second = words[:2]
    command = f"{arguments[first]} {arguments[second]}"
    if command not in commands:
        own = [name for name in commands if name.startswith(f"{arguments[first]} ")]
        hint = did_you_mean(command, own) or f"; there are {', '.join(own)}"
        raise InputError(f"no command {command!r}{hint}")
    remaining = [*arguments[:first], *arguments[first + 1 : second], *arguments[second + 1 :]]
    return [command, *remaining]


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    style = argparse.RawDescriptionHelpFormatter
    root = Parser(
        prog="mtfrun", description=_DESCRIPTION, formatter_class=style, allow_abbrev=False
    )
    root.add_argument(
        *("--version", "-v", "-V"),
        action="version",
        version=f"mtfrun {__version__}",
        help="print the version of mtfrun",
    )
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands = {}
    for command in COMMANDS.values():
        parser = subparsers.add_parser(
            command.name,
            help=command.description.split("\n")[0].rstrip("."),
            description=command.description,
            epilog=GIN_HELP if command.is_configured else None,
            formatter_class=style,
            allow_abbrev=False,
        )
        command.add_flags(parser)
        add_shared_flags(parser, is_configured=command.is_configured, is_of_run=command.is_of_run)
        commands[command.name] = parser
    return root, commands


def command_parsers() -> dict[str, Parser]:
    """Returns the parser of every command by its name."""
    return _parsers()[1]


def _split_gin_flags(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the arguments without those that start with --gin., and these as (flag, binding).

    The value may be an argument of its own: --gin.TRAIN_STEPS 100.
    """
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
