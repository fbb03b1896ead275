from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from mtfrun.cli.command import Command, add_json, at_least, require_gin_files
from mtfrun.display.formats import number_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import ExitCode, InputError

_DESCRIPTION = """\
Checks that sizes of activations, and of their changes, do not depend on the width of a model.

  mtfrun audit widths --gin_file=runs/quickstart.gin --gin.D_MODEL=64,128,256 \\
      --gin.D_FF=256,512,1024 --gin.NUM_HEADS=2,4,8 --gin.WARMUP_STEPS=1 \\
      --gin.BASE_SIZES="{'d_model': 128, 'd_ff': 512, 'heads': 4}"

A flag with several values has one for every width. Each model is trained for a few steps on its
first batch. A line for every layer has the mean absolute entry of its output after them, and the
exponent of the width with which it grows, and with which its change has grown: 0 if the
parametrization is right for this layer (the coordinate check of Yang et al. 2022, arXiv:2203.03466,
appendix D.1). Exponents above --tolerance are marked by *, and so are changes that fall by more
than twice as much; then the exit code is 5. docs/width_transfer.md explains BASE_SIZES."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=at_least(1), default=4, help="steps of training; 4 by default")
    text = "the largest exponent that is not marked; 0.25 by default"
    add("--tolerance", type=at_least(0, float), default=0.25, help=text)
    add_json(parser, "print one JSON object for every layer")


def _check(flags: argparse.Namespace) -> None:
    require_gin_files(flags)
    if flags.model_dir is not None:
        raise InputError("audit widths uses no run: leave --model_dir out")
    _bindings_by_width(flags.bindings)


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.configuration import config
    from mtfrun.experiment.runs.opening import Settings, build_training
    from mtfrun.extras.audit.verify.first_difference import batch_of_step
    from mtfrun.extras.audit.verify.width_check import Size, drifts, growing_dims, output_sizes

    shapes, sizes = [], list[dict[str, Size]]()
    for bindings in _bindings_by_width(flags.bindings):
        settings = dataclasses.replace(Settings.of_flags(flags), bindings=bindings)
        with config.exclusive():
            training = build_training(settings.parse())
        state, clip_norm = training.state, training.options.clip_norm
        shapes.append([v.shape for v in state.model.named_variables().values()])
        batch = batch_of_step(training, 1)
        sizes.append(output_sizes(state, batch, flags.steps, clip_norm=clip_norm))
    growing = growing_dims(shapes)
    widths = next(iter(growing.values()))
    result = drifts(dict(zip(widths, sizes, strict=True)))
    if flags.json:
        print_lines(*(json.dumps(drift._asdict()) for drift in result))
    else:
        print_lines(
            *(f"{name}: {', '.join(map(str, by_width))}" for name, by_width in growing.items())
        )
        based = next(iter(state.model.named_variables().values())).widths.by_name
        if based and (missing := [name for name in growing if name not in based]):
            print_lines(f"not in BASE_SIZES: {', '.join(missing)}")
        headings = ["mean size of the output of", *map(str, widths), "exponent", "of its change"]
        rows = [
            [
                drift.path,
                *map(number_text, drift.sizes),
                f"{drift.slope:.2f}",
                f"{drift.slope_of_change:.2f}",
                "*" if drift.exceeds(flags.tolerance) else "",
            ]
            for drift in result
        ]
        print_lines("", *table_lines([*headings, ""], rows, terminal_columns()))
    return ExitCode.NOT_EQUAL if any(drift.exceeds(flags.tolerance) for drift in result) else 0


def _bindings_by_width(bindings: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Returns the bindings of every width: flags with several values have one for each."""
    from mtfrun.extras.sweeps.sweep_file import alternatives

    settings = [(flag, *alternatives(flag, text)) for flag, text in bindings]
    number = max((len(values) for *_, values in settings), default=1)
    if number == 1:
        raise InputError(
            "there is one width only: give flags several values, as in --gin.D_MODEL=64,128,256"
        )
    for _, name, values in settings:
        if len(values) not in (1, number):
            raise InputError(
                f"--gin.{name} has {len(values)} values, and another flag {number}: give one for "
                "every width, or one for all"
            )
    return [
        [(flag, f"{name} = {values[i % len(values)]}") for flag, name, values in settings]
        for i in range(number)
    ]


COMMANDS = [Command("audit widths", _DESCRIPTION, run, _add_flags, _check, is_configured=False)]
