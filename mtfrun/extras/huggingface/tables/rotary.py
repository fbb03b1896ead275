"""Rotary positions of a configuration: base, rotated share of a head, scaling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.layers.rotary_scaling import yarn_magnitude
from mtfrun.extras.huggingface.tables.settings import Settings

ROTARY = "transformer.RotaryPositions"
# Our classes by the type in transformers.
_SCALINGS = {
    "default": None,
    "linear": "huggingface.LinearScaling",
    "llama3": "huggingface.Llama3Scaling",
    "yarn": "huggingface.YarnScaling",
    "dynamic": "huggingface.DynamicScaling",
    "longrope": "huggingface.LongRopeScaling",
    "su": "huggingface.LongRopeScaling",  # in the first folders of Phi-3
}


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The settings of a model, and `parameters` of its rotary positions under `name`.

    transformers 5 has "rope_parameters"; version 4 has "rope_scaling", with the base and the share
    of a head among the model's settings.
    """

    settings: Settings
    parameters: Settings
    name: str

    @classmethod
    def of(cls, settings: Settings, layer_type: str | None = None) -> Rotary:
        """Reads the positions of all layers, or of a type such as "full_attention"."""
        name = "rope_parameters" if settings.values.get("rope_parameters") else "rope_scaling"
        values = settings.values.get(name)
        if layer_type is not None and name == "rope_parameters" and isinstance(values, Mapping):
            values = values.get(layer_type)
        if values is None:
            values = {}
        if not isinstance(values, Mapping) or any(isinstance(v, Mapping) for v in values.values()):
            raise settings.error(name, "must be the parameters of all layers, by name")
        return cls(settings, Settings(values, f"{settings.where}: {name}"), name)

    def base(self, name: str, default: float) -> float:
        """`name`: the model's setting in version 4."""
        if self.parameters.values.get("rope_theta") is not None:
            return self.parameters.number("rope_theta")
        return self.settings.number(name, default)

    def rotated(self, head_size: int, name: str, default: float) -> int | None:
        """Returns the number of rotated entries of a head, None for all; `name` as in `base`."""
        share = self.settings.number(name, default)
        share = self.parameters.number("partial_rotary_factor", share)
        number = int(head_size * share)
        if not 1 <= number <= head_size or number % 2:
            raise self.settings.error(
                name, f"must be an even share of {head_size}, the size of a head"
            )
        return None if number == head_size else number

    def require_whole_heads(self) -> None:
        """Refuses a share of a head, for models that rotate whole heads in transformers."""
        self.parameters.require("partial_rotary_factor", None, 1, 1.0)
        if self._kind() == "default":
            self.settings.require("partial_rotary_factor", None, 1, 1.0)

    def write_scaling(self, file: GinFile, scope: str = "") -> None:
        """Adds the scaling of frequencies, if any, in a gin scope such as "local/"."""
        kind = self._kind()
        if kind not in _SCALINGS:
            known = ", ".join(_SCALINGS)
            problem = f"has a type that is not supported; supported: {known}"
            raise self.settings.error(self.name, problem)
        cls = _SCALINGS[kind]
        if cls is not None:
            file.bind(f"{scope}{ROTARY}", {"scaling": reference(f"@{scope}{cls}()")})
            file.bind(f"{scope}{cls}", self._scaling(kind))

    def logits_factor(self) -> float:
        """Returns DeepSeek's extra factor of logits, a squared magnitude."""
        if self._kind() == "default" or not self.parameters.values.get("mscale_all_dim"):
            return 1.0
        share = self.parameters.number("mscale_all_dim")
        return yarn_magnitude(self.parameters.number("factor"), share) ** 2

    def _kind(self) -> str:
        return self.parameters.text("rope_type", self.parameters.text("type", "default"))

    def _scaling(self, kind: str) -> dict[str, Any]:
        parameters, arguments = self.parameters, dict[str, Any]()
        if kind in ("linear", "dynamic", "llama3"):
            arguments["factor"] = parameters.number("factor")
            if kind == "llama3":
                for name in ("low", "high"):
                    arguments[f"{name}_frequency_factor"] = parameters.number(f"{name}_freq_factor")
                arguments["original_length"] = self._original_length()
            elif kind == "dynamic":
                arguments["original_length"] = self.settings.integer("max_position_embeddings")
            return arguments
        length = self._original_length()
        longest = self.settings.optional_integer("max_position_embeddings") or length
        factor = parameters.number("factor", longest / length)
        arguments |= {"original_length": length, "factor": factor}
        if parameters.values.get("attention_factor") is not None:
            arguments["attention_factor"] = parameters.number("attention_factor")
        if kind in ("longrope", "su"):
            arguments["short_factors"] = parameters.numbers("short_factor")
            arguments["long_factors"] = parameters.numbers("long_factor")
            return arguments
        arguments["slow_turns"] = parameters.number("beta_slow", 1.0)
        arguments["fast_turns"] = parameters.number("beta_fast", 32.0)
        arguments["whole_pairs"] = parameters.flag("truncate", default=True)
        names = ("mscale", "mscale_all_dim")
        if "attention_factor" not in arguments and all(map(parameters.values.get, names)):
            scale, scale_all = (yarn_magnitude(factor, parameters.number(name)) for name in names)
            arguments["attention_factor"] = scale / scale_all
        return arguments

    def _original_length(self) -> int:
        """The model's setting takes precedence, as in transformers."""
        name, settings = "original_max_position_embeddings", self.settings
        if settings.values.get(name) is not None:
            return settings.integer(name)
        return self.parameters.optional_integer(name) or settings.integer("max_position_embeddings")
