from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.display import progress
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.untrusted import escape

if TYPE_CHECKING:
    from mtfrun import mtf

_DESCRIPTION = """\
Makes a run directory of a model of another program.

  mtfrun import --from=/models/flan-t5-small --model_dir=/tmp/flan
  mtfrun decode --model_dir=/tmp/flan --prompt="translate English to German: How old are you?"
  mtfrun train  --gin_file=/tmp/flan/config.gin --gin_file=data/tsv_pairs.gin \\
                --gin.TSV_FILES="'pairs/*.tsv'" --model_dir=/tmp/run

--from is a folder of Hugging Face: config.json, safetensors in one file or several with an index,
and perhaps a tokenizer; or a run directory of Mesh TensorFlow or T5, or its operative_config.gin,
or another of their gin files; or a run directory of Tensor2Tensor's mtf_transformer (hparams.json).
Files that gin files include are searched in --gin_search_paths (or --gin_location_prefix), then in
the directories above it.

A folder of PEFT (adapter_config.json) becomes the run of an adapter of --base:

  mtfrun import --from=/models/lora --base=/tmp/llama --model_dir=/tmp/llama/adapters/formal

The new directory has config.gin, a checkpoint, and import.json, with which export gives back what
was imported, bit for bit. No code of the folder is run and no pickle file is read."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        help="a folder or a file of the other program",
        metavar="PATH",
        path="model",
    )
    add(
        "--base",
        help="of a folder of PEFT: the run of the model that its LoRA was trained for",
        metavar="DIR",
        path="directory",
    )
    add(
        "--partial",
        action="store_true",
        help="leave out what is not supported, with a line about it, instead of stopping",
    )


def _check(flags: argparse.Namespace) -> None:
    if not flags.source:
        raise InputError("import needs the model of another program: --from=/models/t5-small")
    for flag, _ in [*((f"--gin_file={name}", "") for name in flags.gin_file), *flags.bindings]:
        raise InputError(
            f"import takes settings from --from only: leave out {flag}, and set it when you train"
        )
    if flags.model_dir is None:
        raise InputError("import needs the directory of the run: --model_dir=/tmp/run")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.runs.opening import find_trained_run
    from mtfrun.tools.conversion import importer_for, write_run
    from mtfrun.tools.conversion.hugging_face.peft import is_peft, read_peft

    source = pathlib.Path(os.path.expanduser(flags.source))
    if is_peft(source):
        if flags.base is None:
            raise InputError(f"{source} is a LoRA: name the run of its model with --base=/tmp/run")
        imported = read_peft(source, find_trained_run(flags.base))
    elif flags.base is not None:
        raise InputError(f"--base is for a folder of PEFT, and {source} has no adapter_config.json")
    else:
        importer = importer_for(source)
        imported = importer.read(source, partial=flags.partial, search_paths=flags.gin_search_paths)
    run = write_run(imported, flags.model_dir, _build_variables)
    for note in imported.notes:
        progress.note(f"mtfrun: note: {escape(note)}")
    print_lines(f"{run.path}: step {imported.step}, imported from {source}")
    return 0


def _build_variables(config_path: pathlib.Path) -> tuple[Mapping[str, mtf.Variable], Sequence[str]]:
    """Returns the variables of training, on planned devices, and the vocabulary files."""
    from mtfrun import mtf
    from mtfrun.configuration import config
    from mtfrun.experiment.runs.opening import build_training
    from mtfrun.experiment.runs.settings import ROOTS

    bindings = config.parse([str(config_path)], [], roots=ROOTS, allowed_imports=[])
    with mtf.planned_meshes():
        training = build_training(bindings)
    return training.state.named_variables(), training.experiment.data.vocabulary_files()


COMMANDS = [
    Command(
        "import", _DESCRIPTION, run, _add_flags, _check, takes_url=False, model_dir="new directory"
    )
]
