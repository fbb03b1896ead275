from __future__ import annotations

import functools
import pathlib
import shlex
import types
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
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
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun, read_run

# Modules by Tensor2Tensor's name of a model, with variables of which its checkpoints have one.
_MODELS: Mapping[str, tuple[types.ModuleType, Sequence[str]]] = {
    "mtf_transformer": (transformer, transformer.EMBEDDINGS),
    "mtf_unitransformer": (transformer2, [transformer2.NORM]),
    "mtf_bitransformer": (transformer2, [transformer2.NORM_OF_DECODER]),
    "mtf_image_transformer": (image_transformer, [image_transformer.POSITIONS]),
    "mtf_resnet": (resnet, [resnet.FIRST_VARIABLE]),
}


def import_run(path: pathlib.Path) -> Imported:
    """Reads the hyperparameters and the checkpoint of a run."""
    run = read_run(path)
    name = _name_of(run, path)
    model, _ = _MODELS[name]
    sources = functools.partial(model.sources, run.hparams)
    return Imported(
        lambda directory: _config(name, run, path, directory),
        lambda variables: run.checkpoint.values(variables, sources),
        step=run.checkpoint.step,
        record={
            "format": "tensor2tensor",
            "from": escape(str(path)),
            "model": name,
            "problem": escape(run.problem),
        },
        notes=model.notes(run),
    )


def _name_of(run: SourceRun, path: pathlib.Path) -> str:
    names = [run.model] if run.model else list(_MODELS)
    if not set(names) <= _MODELS.keys():
        raise ConversionError(
            f"--from={path}: the model {run.model} of flags.txt is not supported, only "
            f"{', '.join(_MODELS)}"
        )
    variables = {name: _MODELS[name][1] for name in names}
    for name, alternatives in variables.items():
        if any(variable in run.checkpoint.shapes for variable in alternatives):
            return name
    raise ConversionError(
        f"--from={path}: the checkpoint has no {' or '.join(x[0] for x in variables.values())}, a "
        f"variable of {', '.join(names)}"
    )


def _config(name: str, run: SourceRun, path: pathlib.Path, directory: pathlib.Path) -> str:
    file = Draft(
        [
            f"Tensor2Tensor's {name}, imported from {path}.",
            "",
            f"Train on:  mtfrun train --gin_file={shlex.quote(str(directory / 'config.gin'))} \\",
            "               --gin_file=... --model_dir=...",
        ]
    )
    _MODELS[name][0].write_model(run, file)
    file.macro("INIT_CHECKPOINT", str(directory), "where a new run of this file begins")
    file.gap()
    write_optimizer(run.hparams, file)
    return file.text()


_PRODUCT = "optim.Product"
_ADAFACTOR = "optimizer_adafactor_"


def write_optimizer(hparams: Settings, file: GinFile) -> None:
    """Adds the optimizer, its schedule and the steps."""
    hparams.require("optimizer", "Adafactor", "SGD")
    steps = hparams.non_negative("train_steps", 0)
    if steps:
        file.macro("TRAIN_STEPS", steps)
    file.bind(_PRODUCT, {"factors": _factors(hparams, file)})
    rate = {"learning_rate": reference(f"@{_PRODUCT}()")}
    if hparams.text("optimizer", "Adafactor") == "SGD":
        cls = "optim.Sgd"
        file.bind(cls, rate)
    else:
        cls = "optim.Adafactor"
        file.bind(cls, {**rate, **_adafactor(hparams, file)})
    file.bind("experiment.Training", {"optimizer": reference(f"@{cls}()")})


def _adafactor(hparams: Settings, file: GinFile) -> dict[str, object]:
    parameters: dict[str, object] = {
        "beta1": hparams.number(f"{_ADAFACTOR}beta1", 0.0),
        "clipping_threshold": hparams.number(f"{_ADAFACTOR}clipping_threshold", 1.0),
    }
    if not hparams.flag(f"{_ADAFACTOR}factored", default=True):
        parameters["min_dim_size_to_factor"] = None
    if not hparams.flag(f"{_ADAFACTOR}multiply_by_parameter_scale", default=True):
        parameters["parameter_scale"] = None
    decay = f"{_ADAFACTOR}decay_type"
    hparams.require(decay, "pow", "adam")
    if hparams.text(decay, "pow") == "adam":
        file.bind("optim.AdamDecay", {"beta2": hparams.number(f"{_ADAFACTOR}beta2", 0.999)})
        parameters["decay_rate"] = reference("@optim.AdamDecay()")
    elif hparams.number(f"{_ADAFACTOR}memory_exponent", 0.8) != 0.8:
        exponent = hparams.number(f"{_ADAFACTOR}memory_exponent")
        file.bind("optim.PowerDecay", {"exponent": exponent})
        parameters["decay_rate"] = reference("@optim.PowerDecay()")
    return parameters


def _factors(hparams: Settings, file: GinFile) -> list[Reference | float]:
    """Returns the factors of tensor2tensor/utils/learning_rate.py's learning_rate_schedule."""
    name = "learning_rate_schedule"
    text = hparams.text(name, "linear_warmup*rsqrt_decay*linear_decay")
    factors: list[Reference | float] = [reference("%LEARNING_RATE")]
    constant = 1.0
    warmup = hparams.non_negative("learning_rate_warmup_steps", 0) or 1
    for factor in filter(None, map(str.strip, text.split("*"))):
        if factor == "constant":
            constant *= hparams.number("learning_rate_constant", 1.0)
        elif factor == "linear_warmup":
            factors.append(reference("@optim.LinearWarmup()"))
            file.bind("optim.LinearWarmup", {"warmup_steps": reference("%WARMUP_STEPS")})
        elif factor == "rsqrt_decay":
            factors.append(reference("@optim.TruncatedRsqrt()"))
            file.bind("optim.TruncatedRsqrt", {"warmup_steps": reference("%WARMUP_STEPS")})
        elif factor == "linear_decay":
            steps = hparams.integer("train_steps")
            decay_steps = hparams.integer("learning_rate_decay_steps", steps)
            share = min(1.0, decay_steps / steps)
            constant *= min(1.0, steps / decay_steps)  # it has begun to fall before step 0
            factors.append(reference("@optim.LinearDecay()"))
            file.bind(
                "optim.LinearDecay", {"total_steps": reference("%TRAIN_STEPS"), "fraction": share}
            )
        else:
            raise hparams.error(
                name,
                "is not supported; supported: constant, linear_warmup, rsqrt_decay, linear_decay",
            )
    file.macro("LEARNING_RATE", constant)
    file.macro("WARMUP_STEPS", warmup)
    return factors
