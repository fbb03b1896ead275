from __future__ import annotations

import functools
import pathlib
import shlex
import types
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.conversion.importer import ConversionError, Imported
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.optimizers import write_optimizer, write_schedule
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
    _write_optimizer(run.hparams, file)
    return file.text()


_FACTORS = ("constant", "linear_warmup", "rsqrt_decay", "linear_decay")
_ADAFACTOR = "AdafactorOptimizer"


def _write_optimizer(hparams: Settings, file: Draft) -> None:
    """Adds the optimizer, its schedule and the steps, as those of Mesh TensorFlow's package."""
    hparams.require("optimizer", "Adafactor", "SGD")
    steps = hparams.non_negative("train_steps", 0)
    if steps:
        file.macro("TRAIN_STEPS", steps)
    source = SourceConfig([])
    is_adafactor = hparams.text("optimizer", "Adafactor") == "Adafactor"
    prefix = "optimizer_adafactor_"
    scales = hparams.flag(f"{prefix}multiply_by_parameter_scale", default=True)
    source.bind(
        {
            "run.optimizer": reference(f"@{_ADAFACTOR if is_adafactor else 'SgdOptimizer'}"),
            "run.learning_rate_schedule": _factors(hparams, source, steps),
            f"{_ADAFACTOR}.beta1": hparams.number(f"{prefix}beta1", 0.0),
            f"{_ADAFACTOR}.clipping_threshold": hparams.number(f"{prefix}clipping_threshold", 1.0),
            f"{_ADAFACTOR}.factored": hparams.flag(f"{prefix}factored", default=True),
            f"{_ADAFACTOR}.multiply_by_parameter_scale": scales,
            "adafactor_decay_rate_pow.exponent": hparams.number(f"{prefix}memory_exponent", 0.8),
        }
    )
    hparams.require(f"{prefix}decay_type", "pow", "adam")
    if is_adafactor and hparams.text(f"{prefix}decay_type", "pow") == "adam":
        file.bind("optim.AdamDecay", {"beta2": hparams.number(f"{prefix}beta2", 0.999)})
        source.bind({f"{_ADAFACTOR}.decay_rate": reference("@optim.AdamDecay()")})
    rate = write_schedule(source, file, steps)
    write_optimizer(source, file, rate, dict)


def _factors(hparams: Settings, source: SourceConfig, steps: int) -> list[Reference | float]:
    """Returns the factors of tensor2tensor/utils/learning_rate.py's learning_rate_schedule."""
    name = "learning_rate_schedule"
    text = hparams.text(name, "linear_warmup*rsqrt_decay*linear_decay")
    warmup = hparams.non_negative("learning_rate_warmup_steps", 0) or 1
    # 1 would be all steps.
    fraction = warmup if warmup > 1 else 1.0 / (steps or 1)
    source.bind(
        {"linear_warmup.steps_or_fraction": fraction, "truncated_rsqrt.warmup_steps": warmup}
    )
    factors: list[Reference | float] = []
    for factor in filter(None, map(str.strip, text.split("*"))):
        if factor not in _FACTORS:
            raise hparams.error(name, f"is not supported; supported: {', '.join(_FACTORS)}")
        if factor == "constant":
            factors.append(hparams.number("learning_rate_constant", 1.0))
            continue
        if factor == "linear_decay":
            steps = hparams.integer("train_steps")
            decay_steps = hparams.integer("learning_rate_decay_steps", steps)
            factors.append(min(1.0, steps / decay_steps))  # it has begun to fall before step 0
            source.bind({"linear_decay.steps_or_fraction": min(1.0, decay_steps / steps)})
        factors.append(reference(f"@{'truncated_rsqrt' if factor == 'rsqrt_decay' else factor}"))
    return factors
