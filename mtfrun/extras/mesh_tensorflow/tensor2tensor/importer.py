from __future__ import annotations

import functools
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mtfrun.checkpoints.names import Source
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.conversion.importer import ConversionError, Imported
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.tensor2tensor import (
    image_transformer,
    resnet,
    transformer,
    transformer2,
)
from mtfrun.extras.mesh_tensorflow.tensor2tensor.optimizer import write_optimizer
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun, read_run


class _Model(NamedTuple):
    """A model of Tensor2Tensor; `variables`: its checkpoints have one of these."""

    name: str
    variables: Sequence[str]
    write: Callable[[SourceRun, Draft], None]
    notes: Callable[[SourceRun], list[str]]
    sources: Callable[[Settings, str, Sequence[str]], Sequence[Source]]


_MODELS = (
    _Model(
        "mtf_transformer",
        transformer.EMBEDDINGS,
        transformer.write_model,
        transformer.notes,
        transformer.sources,
    ),
    *(
        _Model(name, [norm], transformer2.write_model, transformer2.notes, transformer2.sources)
        for name, norm in (
            ("mtf_unitransformer", transformer2.NORM),
            ("mtf_bitransformer", transformer2.NORM_OF_DECODER),
        )
    ),
    _Model(
        "mtf_image_transformer",
        [image_transformer.POSITIONS],
        image_transformer.write_model,
        image_transformer.notes,
        image_transformer.sources,
    ),
    _Model("mtf_resnet", [resnet.FIRST_VARIABLE], resnet.write_model, resnet.notes, resnet.sources),
)
_NAMES = ", ".join(model.name for model in _MODELS)


def import_run(path: pathlib.Path) -> Imported:
    """Reads the hyperparameters and the checkpoint of a run."""
    run = read_run(path)
    model = _model_of(run, path)
    sources = functools.partial(model.sources, run.hparams)
    return Imported(
        lambda directory: _config(model, run, path, directory),
        lambda variables: run.checkpoint.values(variables, sources),
        step=run.checkpoint.step,
        record={
            "format": "tensor2tensor",
            "from": escape(str(path)),
            "model": model.name,
            "problem": escape(run.problem),
        },
        notes=model.notes(run),
    )


def _model_of(run: SourceRun, path: pathlib.Path) -> _Model:
    if run.model not in ("", *(model.name for model in _MODELS)):
        raise ConversionError(
            f"--from={path}: the model {run.model} of flags.txt is not supported, only {_NAMES}"
        )
    for model in _MODELS:
        has_variable = any(name in run.checkpoint.shapes for name in model.variables)
        if has_variable and run.model in ("", model.name):
            return model
    names = [m.variables[0] for m in _MODELS if run.model in ("", m.name)]
    raise ConversionError(
        f"--from={path}: the checkpoint has no {' or '.join(names)}: it is not of "
        f"{run.model or _NAMES}"
    )


def _config(model: _Model, run: SourceRun, path: pathlib.Path, directory: pathlib.Path) -> str:
    file = Draft(
        [
            f"Tensor2Tensor's {model.name}, imported from {path}.",
            "",
            f"Train on:  mtfrun train --gin_file={shlex.quote(str(directory / 'config.gin'))} \\",
            "               --gin_file=... --model_dir=...",
        ]
    )
    model.write(run, file)
    file.macro("INIT_CHECKPOINT", str(directory), "where a new run of this file begins")
    file.gap()
    write_optimizer(run.hparams, file)
    return file.text()
