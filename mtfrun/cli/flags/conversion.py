"""The flags of the commands `import` and `export`, and their help texts."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.cli.flags.inference import (
    add_inference_flags,
    check_inference,
    chosen_settings,
)
from mtfrun.errors import InputError

FORMATS = ("huggingface", "safetensors", "saved_model", "tensorflow")
"""The values of export's --format."""

_IMPORT = """\
Makes a run directory of a model of another program.

  mtfrun import --from=/models/flan-t5-small --model_dir=/tmp/flan
  mtfrun decode --model_dir=/tmp/flan --prompt="translate English to German: How old are you?"
  mtfrun train  --gin_file=/tmp/flan/config.gin --gin_file=data/tsv_pairs.gin \\
                --gin.TSV_FILES="'pairs/*.tsv'" --model_dir=/tmp/run

--from is a folder of Hugging Face: config.json, safetensors in one file or several with an index,
and perhaps a tokenizer; or a run directory of Mesh TensorFlow or T5, or its operative_config.gin,
or another of their gin files. Included files are searched in --gin_search_paths (or
--gin_location_prefix), then in the directories above it.

The new directory has config.gin, a checkpoint, and import.json, with which export gives back what
was imported, bit for bit. No code of the folder is run and no pickle file is read."""

_EXPORT = """\
Writes the model of a run for other programs.

  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=huggingface
  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=safetensors
  mtfrun export --model_dir=/tmp/run --to=/models/mine --format=saved_model --beam_size=4

huggingface: a folder that transformers loads, with its tokenizer: for imported models, and for
  models of models/t5.1.0.gin, t5.1.1.gin, gpt2.gin and llama.gin that were trained here.
safetensors: model.safetensors, all variables by their path, for any model.
saved_model: a SavedModel that answers as `mtfrun decode` does on one device, with the settings of
  the configuration or of the flags below; for tf.saved_model.load and servers, without mtfrun.
tensorflow: a checkpoint of TensorFlow, all variables by their path, for any model.

--to must be a new directory; it appears when it is complete."""


def _add_import_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--from", dest="source", help="a folder or a file of the other program", metavar="PATH")
    add(
        "--partial",
        action="store_true",
        help="leave out what is not supported, with a line about it, instead of stopping",
    )


def _check_import(flags: argparse.Namespace) -> None:
    if not flags.source:
        raise InputError("import needs the model of another program: --from=/models/t5-small")
    for flag, _ in [*((f"--gin_file={name}", "") for name in flags.gin_file), *flags.bindings]:
        raise InputError(
            f"import takes settings from --from only: leave out {flag}, and set it when you train"
        )
    if flags.model_dir is None:
        raise InputError("import needs the directory of the run: --model_dir=/tmp/run")


def _add_export_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", help="the directory to write, which must be new", metavar="DIR")
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
    add_inference_flags(parser)


def _check_export(flags: argparse.Namespace) -> None:
    if flags.model_dir is None:
        raise InputError("export needs the directory of a run: --model_dir=/tmp/run")
    if not flags.to:
        raise InputError("export needs a directory to write: --to=/models/mine")
    if flags.format is None:
        raise InputError(f"export needs --format=, one of {', '.join(FORMATS)}")
    if flags.checkpoint not in ("latest", "best") and not flags.checkpoint.isdecimal():
        raise InputError(f"--checkpoint={flags.checkpoint} is neither a step nor latest nor best")
    check_inference(flags)
    if flags.weights_only and flags.format != "huggingface":
        raise InputError("--weights_only is for --format=huggingface: leave it out")
    if flags.format != "saved_model":
        for name in [*chosen_settings(flags), *["tensorflow_text"] * flags.tensorflow_text]:
            raise InputError(f"--{name} is for --format=saved_model: leave it out")


_MODULE = "mtfrun.cli.conversion_commands"
IMPORT = Command("import", _IMPORT, _add_import_flags, _check_import, f"{_MODULE}:import_model")
EXPORT = Command("export", _EXPORT, _add_export_flags, _check_export, f"{_MODULE}:export_model")
