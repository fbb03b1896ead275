from __future__ import annotations

import argparse
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mtfrun.cli import command as cli
from mtfrun.configuration.entry_points import load_entry_points
from mtfrun.display.formats import wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment.conversion.exporter import ExportedRun, Exporter

_DESCRIPTION = """\
Writes the model of a run for other programs.

  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=tensorflow

LoRA of a run of adapters, or of --adapter, is merged into the weights, but for a format of LoRA.

--to must be a new directory; it appears when it is complete."""


class TensorFlowExporter:
    description = "a checkpoint of TensorFlow, all variables by their path, for any model"

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        del parser

    def export(self, run: ExportedRun, directory: pathlib.Path, flags: argparse.Namespace) -> None:
        from mtfrun.experiment.conversion.exporter import export_tensorflow

        del flags
        export_tensorflow(directory, run.values())


class _FormatFlag(NamedTuple):
    action: argparse.Action
    formats: list[str]


@functools.cache
def _exporters() -> Mapping[str, Exporter]:
    return {name: make() for name, make in sorted(load_entry_points("mtfrun.exporters").items())}


@functools.cache
def _format_flags() -> Mapping[str, _FormatFlag]:
    """Returns the flags of all formats by their attribute."""
    flags: dict[str, _FormatFlag] = {}
    for name, exporter in _exporters().items():
        parser = argparse.ArgumentParser(add_help=False)
        exporter.add_flags(parser)
        for action in parser._actions:
            flags.setdefault(action.dest, _FormatFlag(action, [])).formats.append(name)
    return flags


def _add_flags(parser: argparse.ArgumentParser) -> None:
    text = "the directory to write, which must be new"
    parser.add_argument("--to", help=text, path="new directory")
    cli.add_format(parser, list(_exporters()), "see below")
    cli.add_checkpoint(parser)
    cli.add_adapter(parser)
    groups = {
        name: parser.add_argument_group(f"--format={name}", "\n".join(wrap_lines(x.description)))
        for name, x in _exporters().items()
    }
    for action, formats in _format_flags().values():
        place = parser if len(formats) > 1 else groups[formats[0]]
        place._add_action(action)


def _check(flags: argparse.Namespace) -> None:
    cli.require_model_dir(flags)
    cli.check_run(flags, "latest", "best")
    if not flags.to:
        raise InputError("export needs a directory to write: --to=/models/mine")
    if flags.format is None:
        raise InputError(f"export needs --format=, one of {', '.join(_exporters())}")
    for name, (action, formats) in _format_flags().items():
        if flags.format not in formats and getattr(flags, name) != action.default:
            raise InputError(f"--{name} is for --format={' or '.join(formats)}: leave it out")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.conversion.exporter import ExportedRun
    from mtfrun.experiment.conversion.importer import check_new, replaced_directory
    from mtfrun.experiment.runs.opening import Settings
    from mtfrun.rundir import RunDirectory

    target = pathlib.Path(os.path.expanduser(flags.to))
    check_new(target, "--to")
    run = RunDirectory(flags.model_dir)
    run.require()
    exported = ExportedRun(run, flags.checkpoint, flags.adapter, Settings.of_flags(flags))
    with replaced_directory(target) as directory:
        _exporters()[flags.format].export(exported, directory, flags)
    print_lines(f"{target}: {flags.format}")
    return 0


COMMANDS = [cli.Command("export", _DESCRIPTION, run, _add_flags, _check, model_dir="run")]
