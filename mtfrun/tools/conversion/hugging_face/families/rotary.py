from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.layers import yarn_magnitude
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.settings import Settings


def rotary_base(settings: Settings, default: float) -> float:
    parameters = _parameters(settings)
    if parameters.values.get("rope_theta") is not None:
        return parameters.number("rope_theta")
    return settings.number("rope_theta", default)


def write_rotary_scaling(settings: Settings, file: GinFile) -> None:
    """Adds changes of the frequencies of `transformer.RotaryPositions`, if there are any."""
    name, parameters = _name(settings), _parameters(settings)
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind == "default":
        parameters.require("partial_rotary_factor", None, 1, 1.0)
        settings.require("partial_rotary_factor", None, 1, 1.0)
        return
    if kind not in _SCALINGS:
        raise settings.error(name, f"has a type that is not supported; supported: {_KINDS}")
    parameters.require("partial_rotary_factor", None, 1, 1.0)
    class_name, arguments = _SCALINGS[kind]
    file.bind("transformer.RotaryPositions", {"scaling": reference(f"@transformer.{class_name}()")})
    file.bind(f"transformer.{class_name}", arguments(parameters, settings))


def _name(settings: Settings) -> str:
    return "rope_parameters" if settings.values.get("rope_parameters") else "rope_scaling"


def _parameters(settings: Settings) -> Settings:
    name = _name(settings)
    values = settings.values.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping) or any(isinstance(v, Mapping) for v in values.values()):
        raise settings.error(name, "must be the parameters of all layers, by name")
    return Settings(values, f"{settings.where}: {name}")


def _linear(parameters: Settings, _: Settings) -> dict[str, Any]:
    return {"factor": parameters.number("factor")}


def _llama3(parameters: Settings, settings: Settings) -> dict[str, Any]:
    return {
        "factor": parameters.number("factor"),
        "low_frequency_factor": parameters.number("low_freq_factor"),
        "high_frequency_factor": parameters.number("high_freq_factor"),
        "original_length": _original_length(parameters, settings),
    }


def _yarn(parameters: Settings, settings: Settings) -> dict[str, Any]:
    original_length = _original_length(parameters, settings)
    longest = settings.optional_integer("max_position_embeddings") or original_length
    factor = parameters.number("factor", longest / original_length)
    arguments = {
        "factor": factor,
        "original_length": original_length,
        "slow_turns": parameters.number("beta_slow", 1.0),
        "fast_turns": parameters.number("beta_fast", 32.0),
        "whole_pairs": parameters.flag("truncate", default=True),
    }
    share, of_all = (parameters.values.get(name) for name in ("mscale", "mscale_all_dim"))
    if parameters.values.get("attention_factor") is not None:
        arguments["attention_factor"] = parameters.number("attention_factor")
    elif share and of_all:
        arguments["attention_factor"] = yarn_magnitude(
            factor, parameters.number("mscale")
        ) / yarn_magnitude(factor, parameters.number("mscale_all_dim"))
    return arguments


def _original_length(parameters: Settings, settings: Settings) -> int:
    """The model's setting goes first, as in transformers."""
    name = "original_max_position_embeddings"
    if settings.values.get(name) is not None:
        return settings.integer(name)
    return parameters.optional_integer(name) or settings.integer("max_position_embeddings")


# The class of ours and its arguments, by the type in transformers.
_SCALINGS: Mapping[str, tuple[str, Callable[[Settings, Settings], dict[str, Any]]]] = {
    "linear": ("LinearScaling", _linear),
    "llama3": ("Llama3Scaling", _llama3),
    "yarn": ("YarnScaling", _yarn),
}
_KINDS = ", ".join(["default", *_SCALINGS])
