from __future__ import annotations

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.tables.settings import Settings

_PRODUCT = "optim.Product"
_ADAFACTOR = "optimizer_adafactor_"


def write_optimizer(hparams: Settings, file: GinFile) -> None:
    """Adds the optimizer, its schedule and the steps; they change no result of the model."""
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
