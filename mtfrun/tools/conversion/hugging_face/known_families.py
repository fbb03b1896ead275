"""The families that can be imported and exported, by model type."""

from __future__ import annotations

from collections.abc import Sequence

from mtfrun.errors import did_you_mean
from mtfrun.tools.conversion.hugging_face.families import (
    GPT2,
    T5,
    GPTNeo,
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    ResNet,
    SwitchTransformers,
)
from mtfrun.tools.conversion.hugging_face.family import Family
from mtfrun.tools.conversion.hugging_face.settings import Settings

FAMILIES: Sequence[Family] = (
    T5(),
    SwitchTransformers(),
    GPT2(),
    GPTNeo(),
    Llama(),
    Mistral(),
    Mixtral(),
    Qwen2(),
    ResNet(),
)


def family_of(settings: Settings) -> Family:
    """Returns the family of a configuration.

    Raises:
      ConversionError: the type, or the class of the model, is not supported, or the weights are
        quantised.
    """
    kind = settings.text("model_type")
    by_type = {name: family for family in FAMILIES for name in family.model_types}
    if kind not in by_type:
        raise settings.error(
            "model_type",
            f"is not supported{did_you_mean(kind, by_type)}; supported: {', '.join(by_type)}",
        )
    if settings.values.get("quantization_config") is not None:
        raise settings.error(
            "quantization_config",
            "is not supported: convert the weights to float32, bfloat16 or float16 first",
        )
    family = by_type[kind]
    architectures = settings.values.get("architectures") or [family.architectures[0]]
    if type(architectures) is not list or not any(
        name in family.architectures for name in architectures
    ):
        raise settings.error(
            "architectures", f"is not supported; supported: {', '.join(family.architectures)}"
        )
    return family
