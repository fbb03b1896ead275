from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import (
    Command,
    add_adapter_flag,
    add_inference_flags,
    check_inference,
    check_run,
    inference_settings,
    require_model_dir,
    settings_of,
)
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.rundir import RunDirectory
    from mtfrun.tools.conversion import RunValues

_DESCRIPTION = """\
Writes the model of a run for other programs.

  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=huggingface
  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=safetensors
  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=saved_model --beam_size=4

huggingface: a folder that transformers loads, with its tokenizer: for imported models, and for
  models of models/t5.1.0.gin, t5.1.1.gin, gpt2.gin and llama.gin that were trained here.
peft: the LoRA of a run of adapters, or of --adapter, as a folder that PEFT loads for the model of
  --format=huggingface.
safetensors: model.safetensors, all variables by their path, for any model.
saved_model: a SavedModel that answers as `mtfrun decode` does on one device, with the settings of
  the configuration or of the flags below; for tf.saved_model.load and servers, without mtfrun.
tensorflow: a checkpoint of TensorFlow, all variables by their path, for any model.

LoRA of a run of adapters, or of --adapter, is merged into the weights.

--to must be a new directory; it appears when it is complete."""


FORMATS = ("huggingface", "peft", "safetensors", "saved_model", "tensorflow")
"""The values of export's --format."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--to",
        help="the directory to write, which must be new",
        metavar="DIR",
        path="new directory",
    )
    add("--format", choices=FORMATS, help="see above", metavar="FORMAT")
    add("--checkpoint", default="latest", help="latest (default), best, or a step", metavar="C")
    add(
        "--max_shard_size",
        help="the size of the largest file of weights, such as 5GB or 200MB; 50GB by default, or "
        "the files that were imported",
        metavar="SIZE",
    )
    add(
        "--weights_only",
        action="store_true",
        help="with huggingface: only the configuration and the weights, without a tokenizer, for a "
        "vocabulary that transformers cannot express",
    )
    add(
        "--tensorflow_text",
        action="store_true",
        help="of a saved_model with a SentencePiece vocabulary: texts in and out as well; whoever "
        "loads it must import tensorflow_text before",
    )
    add_adapter_flag(parser)
    add_inference_flags(parser)


def _check(flags: argparse.Namespace) -> None:
    require_model_dir(flags)
    check_run(flags, "latest", "best")
    if not flags.to:
        raise InputError("export needs a directory to write: --to=/models/mine")
    if flags.format is None:
        raise InputError(f"export needs --format=, one of {', '.join(FORMATS)}")
    check_inference(flags)
    if flags.weights_only and flags.format != "huggingface":
        raise InputError("--weights_only is for --format=huggingface: leave it out")
    if flags.format != "saved_model":
        for name in [*inference_settings(flags), *["tensorflow_text"] * flags.tensorflow_text]:
            raise InputError(f"--{name} is for --format=saved_model: leave it out")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunDirectory
    from mtfrun.tools import conversion
    from mtfrun.tools.conversion.hugging_face.export import export_folder, origin_of_run
    from mtfrun.tools.planning import parse_size

    target = pathlib.Path(os.path.expanduser(flags.to))
    conversion.check_new(target, "--to")
    run = RunDirectory(flags.model_dir)
    run.require()
    size = None if flags.max_shard_size is None else int(parse_size(flags.max_shard_size))
    with conversion.replaced_directory(target) as directory:
        if flags.format == "saved_model":
            _export_saved_model(flags, run, directory)
        elif flags.format == "huggingface":
            origin = origin_of_run(
                _configured_run(flags, run),
                flags.gin_allow_imports,
                weights_only=flags.weights_only,
            )
            values = _values(flags, run)
            export_folder(directory, values.values, origin, size)
        elif flags.format == "peft":
            _export_peft(flags, run, directory)
        elif flags.format == "safetensors":
            values = _values(flags, run)
            conversion.export_safetensors(directory, values, size)
        else:
            values = _values(flags, run)
            conversion.export_tensorflow(directory, values)
    print_lines(f"{target}: {flags.format}")
    return 0


def _configured_run(flags: argparse.Namespace, run: RunDirectory) -> RunDirectory:
    from mtfrun.experiment.adapters import find_adapter

    return run if flags.adapter is None else find_adapter(flags.adapter, run)


def _values(flags: argparse.Namespace, run: RunDirectory) -> RunValues:
    """Returns the values of a checkpoint, into which LoRA is merged."""
    from mtfrun.experiment.adapters import is_of_adapters
    from mtfrun.experiment.runs.opening import build_run, restore_model
    from mtfrun.tools import conversion

    if flags.adapter is None and not is_of_adapters(run, flags.checkpoint):
        return conversion.values_of_run(run, flags.checkpoint)
    built = build_run(run, settings_of(flags), adapter=flags.adapter, on_one_device=True)
    step = restore_model(built, run, flags.checkpoint, flags.adapter)
    return conversion.merged_values(built.experiment, step)


def _export_saved_model(
    flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path
) -> None:
    from mtfrun.experiment.runs.opening import build_run, restore_model
    from mtfrun.tools.conversion.saved_model import export_saved_model, signatures_of

    built = build_run(run, settings_of(flags), adapter=flags.adapter, on_one_device=True)
    inference = built.experiment.inference.with_settings(inference_settings(flags))
    step = restore_model(built, run, flags.checkpoint, flags.adapter)
    offered = signatures_of(inference, tensorflow_text=flags.tensorflow_text)
    export_saved_model(directory, built.experiment, step, offered)


def _export_peft(flags: argparse.Namespace, run: RunDirectory, directory: pathlib.Path) -> None:
    from mtfrun.experiment.adapters import is_of_adapters
    from mtfrun.experiment.runs.opening import build_run, restore_model
    from mtfrun.tools import conversion
    from mtfrun.tools.conversion.hugging_face.export import origin_of_run
    from mtfrun.tools.conversion.hugging_face.peft import export_peft

    if flags.adapter is None and not is_of_adapters(run, flags.checkpoint):
        raise InputError(
            f"--format=peft writes LoRA, and {run.path} has none: name the run of an adapter with "
            "--adapter, or export the model with --format=huggingface or safetensors"
        )
    try:
        configured = _configured_run(flags, run)
        origin = origin_of_run(configured, flags.gin_allow_imports, weights_only=True)
    except conversion.ConversionError as error:
        raise conversion.ConversionError(f"PEFT adapts models of transformers: {error}") from error
    built = build_run(run, settings_of(flags), adapter=flags.adapter, on_one_device=True)
    restore_model(built, run, flags.checkpoint, flags.adapter)
    export_peft(directory, built.experiment.model, origin)


COMMANDS = [Command("export", _DESCRIPTION, run, _add_flags, _check, model_dir="run")]
