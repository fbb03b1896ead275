"""The command line: subcommands, their flags, and their help texts with examples."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Sequence
from typing import NoReturn

from mtfrun import __version__
from mtfrun.cli import vocab_flags
from mtfrun.cli.errors import UsageError
from mtfrun.errors import did_you_mean

GIN_PREFIX = "--gin."

_DESCRIPTION = """\
Trains, evaluates and runs models that gin files describe, on one device or on a mesh of many.

  mtfrun train  --gin_file=runs/quickstart.gin --model_dir=/tmp/run
  mtfrun eval   --model_dir=/tmp/run
  mtfrun decode --model_dir=/tmp/run --prompt="The "
  tensorboard --logdir /tmp/run
  mtfrun data show --gin_file=runs/quickstart.gin

mtfrun COMMAND --help explains a command.

Exit codes: 0; 2 for bad input, one line with the remedy; 3 where a model's numbers are infinite or
not a number; 128 + number for a signal; 1 for a defect, with its traceback."""

_GIN_HELP = """\
configuration:
  gin files are searched in the working directory, in --gin_search_paths, then among the files of
  the package (runs/quickstart.gin, models/lm_small.gin, layouts/2x2.gin, ...). Later files and
  flags override earlier ones. Macros in capitals are meant to be overridden:

    --gin.TRAIN_STEPS=100                          a macro
    --gin.MESH_SHAPE="'data:2,model:2'"            a string needs quotes within quotes
    --gin.FeedForward.d_ff=512                     a parameter of a class or function
    --gin_param="Training.optimizer = @Adam()"     the same, as gin writes it
"""

_TRAIN = """\
Trains a model, from the newest checkpoint in --model_dir if there is one.

  mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run
  mtfrun train --gin_file=runs/quickstart.gin --model_dir=/tmp/run --gin.TRAIN_STEPS=50
  mtfrun train --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin --model_dir=/tmp/mesh
  mtfrun train --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin --dry_run

--dry_run takes no step and writes nothing to --model_dir; of the data it reads the first batch that
is evaluated. It prints every variable with its dimensions, the mesh axis of each, sizes and bytes
on a device; the totals of parameters, optimizer, batch and steps; the collectives (all-reduce,
all-gather, ...) that a step will run, with the mesh axes and dimensions that cause them, for which
the step is compiled; layout rules without effect.

SIGTERM, Ctrl-C and SIGHUP finish the current steps, about 5 seconds, or the batch of an evaluation,
save a checkpoint and exit with 143, 130 or 129; the same command continues from there.
--gin.TrainOptions.secs_per_loop=1 shortens the wait. A second SIGTERM or Ctrl-C ends the process
immediately. --restart begins again at step 0 and deletes nothing: existing checkpoints are moved to
--model_dir/checkpoints.1 (.2, ...).

Training ends with exit code 3, and saves nothing, if the loss, the norm of the gradients or a
variable is infinite or not a number. The error names the last good checkpoint; nan_step_N.json in
--model_dir has the step, the first such variable and the rows of the step's batch."""

_EVAL = """\
Evaluates checkpoints: one JSON object each on standard output, and curves in --model_dir/eval.

  mtfrun eval --model_dir=/tmp/run
  mtfrun eval --model_dir=/tmp/run --checkpoint=all
  mtfrun eval --model_dir=/tmp/run --continuous
  mtfrun eval --model_dir=/tmp/run --gin.EVAL_SPLIT="'test'"

A metric that is infinite or not a number is printed as null, and the exit code is 3.

Without --gin_file the configuration is the run's own, --model_dir/config.gin, which may import
mtfrun alone: --gin_allow_imports=my_models names other modules that you trust.
Without --model_dir the model is that of --gin_file, with the values of any checkpoint that training
could start from: --gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""

_DECODE = """\
Continues or answers prompts, or classifies images: one JSON object each, in order.

  mtfrun decode --model_dir=/tmp/run --prompt="The " --prompt="If "
  mtfrun decode --model_dir=/tmp/run --input=prompts.txt --output=answers.jsonl
  mtfrun decode --model_dir=/tmp/run --prompt="The " --temperature=0.8 --top_p=0.9 --seed=1
  mtfrun decode --model_dir=/tmp/run --input=prompts.jsonl --beam_size=4 --num_outputs=4
  mtfrun decode --model_dir=/tmp/run --interactive

A file has one prompt a line: in .tsv files the first column, in .jsonl files {"input": ...}.

A classifier of images takes PNG and JPEG files, or a split of its data:

  mtfrun decode --model_dir=/tmp/digits --input=photo.png --top_k=3
  mtfrun decode --model_dir=/tmp/digits --input=photos --output=labels.jsonl
  mtfrun decode --model_dir=/tmp/digits --input='photos/**/*.png,more.jpg,list.txt'
  mtfrun decode --model_dir=/tmp/digits --input=split:test --output=labels.jsonl

photos is a folder, list.txt has a path in each line. Images of another size than the model's are
scaled to cover it, and cropped at the centre.

Without --gin_file the configuration is the run's own, --model_dir/config.gin, which may import
mtfrun alone: --gin_allow_imports=my_models names other modules that you trust.
Without --model_dir the model is that of --gin_file, with the values of any checkpoint that training
could start from: --gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""

_SCORE = """\
Computes the log-likelihood of targets given inputs: one JSON object a pair, in order.

  mtfrun score --model_dir=/tmp/run --input=pairs.tsv --output=scores.jsonl

A line is an input, a tab and a target, or in .jsonl files {"input": ..., "target": ...}.

Without --gin_file the configuration is the run's own, --model_dir/config.gin, which may import
mtfrun alone: --gin_allow_imports=my_models names other modules that you trust.
Without --model_dir the model is that of --gin_file, with the values of any checkpoint that training
could start from: --gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""


_DATA = """\
Commands about the data of a configuration. They build no model and use no device.

  mtfrun data cache --gin_file=runs/quickstart.gin    builds the caches of its texts
  mtfrun data show  --gin_file=runs/quickstart.gin    shows a few rows
  mtfrun data stats --gin_file=runs/quickstart.gin    shows statistics of the lengths of texts"""

_DATA_CACHE = """\
Builds the caches of a configuration's texts: the ids of its training and its evaluation split.

  mtfrun data cache --gin_file=runs/quickstart.gin
  mtfrun data cache --gin_file=my.gin --tasks='wmt.*' --output_cache_dir=/data/cache
  mtfrun data cache --gin_file=my.gin --overwrite

Training builds the caches that it lacks, so that this command is only needed to build them on
another machine or at another time. For every task and split a line on standard output says how many
examples, tokens and bytes there are, how long it took, and where the cache is. A cache belongs to
its source, preprocessors and vocabulary, and is found again by them; if one changes, another cache
is built.

Caches are in $MTFRUN_CACHE_DIR, by default ~/.cache/mtfrun. --output_cache_dir names another
directory; MTFRUN_CACHE_DIR=/data/cache mtfrun train ... then trains from it. A build that a signal
ends leaves nothing behind."""

_DATA_SHOW = """\
Shows a few rows as the model gets them: texts, ids, positions, segments, loss, density.

  mtfrun data show --gin_file=runs/quickstart.gin
  mtfrun data show --gin_file=runs/number_words.gin --split=validation --rows=5
  mtfrun data show --gin_file=runs/digits.gin --html=rows.html

Rows of the split "train" are those that training begins with, shuffled and with their noise; rows
of other splits are the first ones of an evaluation. --html writes a page that shows every segment
in a colour, and the id and the position of a token under the mouse, and images."""

_DATA_STATS = """\
Shows the lengths of a configuration's texts, and how much of them is cut and padded.

  mtfrun data stats --gin_file=runs/quickstart.gin
  mtfrun data stats --gin_file=my.gin --gin.INPUTS_LENGTH=64 --gin.TARGETS_LENGTH=32

For every task, split and feature: the number of texts, their tokens and bytes, mean, percentiles
and a histogram of the tokens of a text, and what of them is cut at the configured lengths. For
every split: the share of the positions of its rows that hold a token."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message} ({self.prog} --help explains)")


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the flags; `.command` is the subcommand, `.bindings` has (flag, gin binding) pairs.

    Raises:
      UsageError: the command or a flag does not exist, or a value is invalid.
    """
    root, commands = _parsers()
    plain, bindings = _split_gin_flags(arguments)
    plain = _joined_command(plain, commands)
    # Abbreviations of commands and flags are errors with the full name, not silently accepted.
    command = next((a for a in plain if not a.startswith("-")), None)
    if command is not None and command not in commands:
        hint = did_you_mean(command, commands) or f"; there are {', '.join(commands)}"
        raise UsageError(f"no command {command!r}{hint}")
    flags, unknown = root.parse_known_args(plain)
    if flags.command is None:
        root.error("no command; there are " + ", ".join(commands))
    if unknown:
        known = list(commands[flags.command]._option_string_actions)
        name = unknown[0].split("=")[0]
        commands[flags.command].error(f"no flag {name}{did_you_mean(name, known)}")
    flags.bindings = [(f"--gin_param={text}", text) for text in flags.gin_param] + bindings
    if flags.skip_bad_records is not None:
        binding = f"SKIP_BAD_RECORDS = {flags.skip_bad_records}"
        flags.bindings.append((f"--skip_bad_records={flags.skip_bad_records}", binding))
    _check(flags)
    return flags


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
        raise UsageError(f"no command {command!r}{hint}")
    remaining = [*arguments[:first], *arguments[first + 1 : second], *arguments[second + 1 :]]
    return [command, *remaining]


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    style = argparse.RawDescriptionHelpFormatter
    root = Parser(
        prog="mtfrun", description=_DESCRIPTION, formatter_class=style, allow_abbrev=False
    )
    root.add_argument(
        "--version",
        action="version",
        version=f"mtfrun {__version__}",
        help="print the version of mtfrun",
    )
    subparsers = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands = {}
    for name, description, add_flags in (
        ("train", _TRAIN, _add_train_flags),
        ("eval", _EVAL, _add_eval_flags),
        ("decode", _DECODE, _add_decode_flags),
        ("score", _SCORE, _add_score_flags),
        ("data", _DATA, lambda _: None),
        ("data cache", _DATA_CACHE, _add_cache_flags),
        ("data show", _DATA_SHOW, _add_show_flags),
        ("data stats", _DATA_STATS, lambda _: None),
        ("vocab", vocab_flags.VOCAB, lambda _: None),
        ("vocab train", vocab_flags.VOCAB_TRAIN, vocab_flags.add_flags),
    ):
        commands[name] = subparsers.add_parser(
            name,
            help=description.split("\n")[0].rstrip("."),
            description=description,
            epilog=_GIN_HELP,
            formatter_class=style,
            allow_abbrev=False,
        )
        add_flags(commands[name])
        _add_shared_flags(commands[name])
    return root, commands


def _add_train_flags(parser: Parser) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help="describe the run: variables, layout, collectives"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin at step 0; existing checkpoints are moved to checkpoints.1",
    )
    parser.add_argument(
        "--profile", action="store_true", help="record a trace of some steps in --model_dir/train"
    )
    parser.add_argument(
        "--accept_changes",
        action="store_true",
        help="go on although the data have changed since the checkpoint",
    )


def _add_eval_flags(parser: Parser) -> None:
    parser.add_argument(
        "--checkpoint", default="latest", help="latest (default), all, or a step", metavar="C"
    )
    parser.add_argument(
        "--continuous",
        action="store_true",
        help="evaluate all checkpoints, and new ones until training has ended",
    )


def _add_decode_flags(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--input",
        help="a file with one prompt a line; - is standard input; or images, or split:NAME",
        metavar="FILE",
    )
    add("--prompt", action="append", default=[], help="a prompt; repeatable", metavar="TEXT")
    add("--interactive", action="store_true", help="read prompts from the terminal, one by one")
    _add_output_flags(parser)
    add(
        "--format",
        default="jsonl",
        choices=("jsonl", "text"),
        help="text: outputs or labels alone, a line each",
    )
    add("--beam_size", type=int, help="beams of a beam search; 1 for none", metavar="N")
    add("--num_outputs", type=int, help="outputs for each prompt, up to beam_size", metavar="N")
    add("--alpha", type=float, help="exponent of a beam search's length penalty", metavar="A")
    add("--temperature", type=float, help="0 takes the most likely token each time", metavar="T")
    add(
        "--top_k",
        type=int,
        help="sample among the K most likely tokens; of images: number of labels",
        metavar="K",
    )
    add(
        "--top_p",
        type=float,
        help="sample among the fewest tokens of this total probability",
        metavar="P",
    )
    add("--decode_length", type=int, help="largest number of new tokens for a prompt", metavar="N")
    add("--seed", type=int, help="of the random numbers of sampling", metavar="N")


def _add_score_flags(parser: Parser) -> None:
    parser.add_argument("--input", help="a file of pairs; - is standard input", metavar="FILE")
    _add_output_flags(parser)


def _add_cache_flags(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--tasks",
        help="a regular expression of the names of the tasks; by default all",
        metavar="REGEX",
    )
    add("--output_cache_dir", help="the directory of the caches", metavar="DIR")
    add("--overwrite", action="store_true", help="build again what exists")


def _add_show_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--split", default="train", help="train (default) or another split", metavar="NAME")
    add("--rows", type=int, default=3, help="number of rows; 3 by default", metavar="N")
    add("--html", help="write a page of HTML instead", metavar="FILE")


def _add_output_flags(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--output",
        default="-",
        help="where to write; - (default) is standard output",
        metavar="FILE",
    )
    add("--checkpoint", default="latest", help="latest (default) or a step", metavar="C")


def _add_shared_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--model_dir", help="the directory of the run", metavar="DIR")
    add("--gin_file", action="append", default=[], help="a gin file; repeatable", metavar="FILE")
    add("--gin_param", action="append", default=[], help="a gin binding; repeatable", metavar="B")
    add(
        "--gin_search_paths",
        action="append",
        default=[],
        help=f"directories of gin files, separated by {os.pathsep!r}; repeatable",
        metavar="DIRS",
    )
    add(
        "--gin_allow_imports",
        action="append",
        default=[],
        help="modules that the configuration in a run directory may use besides mtfrun, with all "
        "below them, separated by commas; what --gin_file names may use anything",
        metavar="MODULES",
    )
    add(
        "--skip_bad_records",
        type=int,
        help="the same as --gin.SKIP_BAD_RECORDS=N: how many malformed records of a split are left "
        "out, with a warning that counts them",
        metavar="N",
    )
    add("--debug", action="store_true", help="show tracebacks and TensorFlow's log")


def _split_gin_flags(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the arguments without those that start with --gin., and these as (flag, binding)."""
    plain, bindings = [], []
    for argument in arguments:
        if not argument.startswith(GIN_PREFIX):
            plain.append(argument)
            continue
        name, equals, value = argument.removeprefix(GIN_PREFIX).partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{argument} needs a name and a value: {GIN_PREFIX}TRAIN_STEPS=100")
        bindings.append((argument, f"{name} = {value}"))
    return plain, bindings


def _check_model_dir(name: str | None) -> None:
    """Raises UsageError for a directory that TensorFlow cannot open: its paths must be UTF-8."""
    try:
        # pathlib's expanduser raises for the name of an unknown user.
        os.path.abspath(os.path.expanduser(name or "")).encode()  # noqa: PTH100, PTH111
    except UnicodeEncodeError:
        raise UsageError(
            f"--model_dir={name}: the path is not UTF-8, which TensorFlow needs: rename the "
            "directory, or name another one"
        ) from None


def _check_data(flags: argparse.Namespace) -> None:
    """Raises UsageError for flags of the commands about data that cannot be used."""
    if flags.command == "data":
        raise UsageError("data needs a command: data cache, data show or data stats")
    if not flags.gin_file and flags.model_dir is None:
        raise UsageError(f"{flags.command} needs a configuration: --gin_file=runs/quickstart.gin")
    if flags.command == "data show" and flags.rows < 1:
        raise UsageError(f"--rows={flags.rows} must be at least 1")
    if "" in (getattr(flags, "html", None), getattr(flags, "output_cache_dir", None)):
        raise UsageError("--html and --output_cache_dir need a name")
    if flags.command == "data cache" and flags.tasks is not None:
        try:
            re.compile(flags.tasks)
        except re.error as error:
            raise UsageError(f"--tasks={flags.tasks} is no regular expression: {error}") from None


def _check(flags: argparse.Namespace) -> None:
    flags.gin_search_paths = [
        path for paths in flags.gin_search_paths for path in paths.split(os.pathsep) if path
    ]
    flags.gin_allow_imports = [
        name for names in flags.gin_allow_imports for name in names.split(",") if name
    ]
    for name in flags.gin_allow_imports:
        if not all(map(str.isidentifier, name.split("."))):
            raise UsageError(
                f"--gin_allow_imports={name}: not the name of a module; write --gin_allow_imports="
                "my_models,my_data.text"
            )
    _check_model_dir(flags.model_dir)
    if flags.command.partition(" ")[0] == "data":
        _check_data(flags)
        return
    if flags.command.partition(" ")[0] == "vocab":
        vocab_flags.check(flags)
        return
    if flags.command == "train":
        if not flags.gin_file:
            raise UsageError("train needs a configuration: --gin_file=runs/quickstart.gin")
        if flags.model_dir is None and not flags.dry_run:
            raise UsageError("train needs a directory for the run: --model_dir=/tmp/run")
        return
    if flags.model_dir is None:
        if not flags.gin_file:
            raise UsageError(f"{flags.command} needs the directory of a run: --model_dir=/tmp/run")
        if flags.checkpoint != "latest" or (flags.command == "eval" and flags.continuous):
            raise UsageError("--checkpoint and --continuous are about a run: give its --model_dir")
    allowed = ("latest", "all") if flags.command == "eval" else ("latest",)
    if flags.checkpoint not in allowed and not flags.checkpoint.isdecimal():
        raise UsageError(
            f"--checkpoint={flags.checkpoint} is neither a step nor {' nor '.join(allowed)}"
        )
    if flags.command == "eval" and flags.continuous and flags.checkpoint != "latest":
        raise UsageError("--continuous evaluates all checkpoints: leave --checkpoint out")
    if "" in (getattr(flags, "input", None), getattr(flags, "output", None)):
        raise UsageError("--input and --output need the name of a file")
    if flags.command == "score" and flags.input is None:
        raise UsageError("score needs pairs: --input=FILE")
    if flags.command == "decode":
        sources = [bool(flags.prompt), flags.input is not None, flags.interactive]
        if sum(sources) != 1:
            raise UsageError(
                "decode needs prompts: either --prompt=TEXT or --input=FILE or --interactive"
            )
        if flags.interactive and flags.output != "-":
            raise UsageError("--interactive answers on the terminal: leave --output out")
