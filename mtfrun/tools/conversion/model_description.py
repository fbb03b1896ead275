from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtfrun.tools.conversion.errors import ConversionError

Parameters = Mapping[str, Mapping[str, Any]]

# Configurations name classes of models by these modules.
_MODULES = ("transformer", "moe", "resnet", "layers")
# Classes and parameters on which no output for a text or an image depends, but only training, the
# layout, the time, or what becomes of padding.
_WITHOUT_EFFECT = (
    *("TokenLoss", "ImageLoss", "Jitter", "InputDropout", "SublayerDropout", "Mixup", "CutMix"),
    *("dropout_rate", "rate", "loss", "loss_coef", "z_loss", "input_noise", "round_factor"),
    *("rematerialise", "scan_blocks", "block_length", "max_length", "vocabulary_divisor"),
    *("routes_padding", "shift_across_segments", "loss_on_targets_only", "mixing"),
)


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """`parameters` are by "scope/module.Class" and name, `vocabulary_sizes` by a table's path."""

    parameters: Parameters
    shapes: Mapping[str, tuple[int, ...]]
    vocabulary_sizes: Mapping[str, int]

    def parameter(self, target: str, name: str) -> Any:
        """Returns None where the class was not called."""
        return self.parameters.get(target, {}).get(name)

    def num_blocks(self, stack: str) -> int:
        """The stack is "encoder_stack" or "decoder_stack"."""
        prefix = f"{stack}/blocks/"
        return len({p.split("/")[2] for p in self.shapes if p.startswith(prefix)})

    def check_computes_as(self, other: ModelDescription, what: str) -> None:
        """Raises ConversionError unless both models compute the same from the same variables."""
        if dict(self.shapes) != dict(other.shapes):
            paths = sorted(set(self.shapes.items()) ^ set(other.shapes.items()))
            raise ConversionError(
                f"the model differs from {what}: {paths[0][0]} differs; export it with "
                "--format=safetensors"
            )
        ours, theirs = _of_model(self.parameters), _of_model(other.parameters)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                raise ConversionError(
                    f"the model differs from {what}: {name}={ours.get(name)!r} there is "
                    f"{theirs.get(name)!r}; export it with --format=safetensors"
                )


def _of_model(parameters: Parameters) -> dict[str, Any]:
    return {
        f"{target}.{name}": value
        for target, arguments in parameters.items()
        for module, _, cls in [target.rpartition("/")[2].rpartition(".")]
        if module in _MODULES and cls not in _WITHOUT_EFFECT
        for name, value in arguments.items()
        if name not in _WITHOUT_EFFECT
    }
