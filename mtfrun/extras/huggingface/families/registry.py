"""The list of families, and which one a configuration belongs to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mtfrun.extras.huggingface.families.encoder_decoders.bart import (
    M2M100,
    Bart,
    Marian,
    MBart,
    Pegasus,
)
from mtfrun.extras.huggingface.families.encoder_decoders.longt5 import LongT5, LongT5Encoder
from mtfrun.extras.huggingface.families.encoder_decoders.switch import SwitchTransformers
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import T5
from mtfrun.extras.huggingface.families.encoder_decoders.t5_encoder import T5Encoder
from mtfrun.extras.huggingface.families.encoder_decoders.umt5 import UMT5
from mtfrun.extras.huggingface.families.encoders.bert import Bert, DistilBert, Roberta
from mtfrun.extras.huggingface.families.encoders.modernbert import ModernBert
from mtfrun.extras.huggingface.families.gpt.bloom import Bloom
from mtfrun.extras.huggingface.families.gpt.falcon import Falcon
from mtfrun.extras.huggingface.families.gpt.gpt2 import GPT2, GPTNeo
from mtfrun.extras.huggingface.families.gpt.gpt_neox import GPTNeoX
from mtfrun.extras.huggingface.families.gpt.gptj import GPTJ
from mtfrun.extras.huggingface.families.gpt.opt import Opt
from mtfrun.extras.huggingface.families.gpt.phi import Phi
from mtfrun.extras.huggingface.families.images.convnext import ConvNext
from mtfrun.extras.huggingface.families.images.resnet import ResNet
from mtfrun.extras.huggingface.families.images.vit import ViT
from mtfrun.extras.huggingface.families.llama.cohere import Cohere, Cohere2
from mtfrun.extras.huggingface.families.llama.deepseek_v3 import DeepseekV3
from mtfrun.extras.huggingface.families.llama.gemma import Gemma
from mtfrun.extras.huggingface.families.llama.gemma2 import Gemma2
from mtfrun.extras.huggingface.families.llama.gemma3 import Gemma3
from mtfrun.extras.huggingface.families.llama.granite import Granite
from mtfrun.extras.huggingface.families.llama.llama import Llama, Mistral, Qwen2
from mtfrun.extras.huggingface.families.llama.mixtral import Mixtral
from mtfrun.extras.huggingface.families.llama.olmo2 import Olmo2, Olmo3
from mtfrun.extras.huggingface.families.llama.olmoe import Olmoe
from mtfrun.extras.huggingface.families.llama.phi3 import Glm, Glm4, Phi3
from mtfrun.extras.huggingface.families.llama.qwen2_moe import Qwen2Moe
from mtfrun.extras.huggingface.families.llama.qwen3 import Qwen3
from mtfrun.extras.huggingface.families.llama.qwen3_moe import Qwen3Moe
from mtfrun.extras.huggingface.families.llama.smollm3 import SmolLM3
from mtfrun.extras.huggingface.families.llama.stablelm import Olmo, StableLm, Starcoder2
from mtfrun.extras.huggingface.family import Family
from mtfrun.extras.huggingface.tables.settings import Settings

FAMILIES: Sequence[Family] = (
    T5(),
    T5Encoder(),
    UMT5(),
    LongT5(),
    LongT5Encoder(),
    Bart(),
    Marian(),
    Pegasus(),
    MBart(),
    M2M100(),
    SwitchTransformers(),
    GPT2(),
    GPTNeo(),
    Llama(),
    Mistral(),
    Mixtral(),
    Qwen2(),
    Qwen3(),
    Phi3(),
    Glm(),
    Glm4(),
    Olmo2(),
    Olmo3(),
    SmolLM3(),
    Gemma(),
    Gemma2(),
    Gemma3(),
    Granite(),
    StableLm(),
    Olmo(),
    Starcoder2(),
    Cohere(),
    Cohere2(),
    Phi(),
    GPTJ(),
    GPTNeoX(),
    Falcon(),
    Opt(),
    Bloom(),
    Qwen2Moe(),
    Qwen3Moe(),
    Olmoe(),
    DeepseekV3(),
    Bert(),
    Roberta(),
    DistilBert(),
    ModernBert(),
    ResNet(),
    ConvNext(),
    ViT(),
)


# Of model types; names that differ in their numbers are of other models.
_LIKENESS = 0.85
_QUANTISED = (
    "is not supported: import the folder of the model before it was quantised, or what "
    "model.dequantize() and model.save_pretrained() of transformers write"
)
_NOT_CAUSAL = "is not supported: for vectors of texts import an encoder, such as BERT's or T5's"
_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def family_of(settings: Settings) -> Family:
    """Raises ConversionError for unsupported model types or classes, and quantised weights."""
    kind = settings.text("model_type")
    families = [family for family in FAMILIES if kind in family.model_types]
    if not families:
        raise settings.error("model_type", _other_families(kind, settings))
    if settings.values.get("quantization_config") is not None:
        raise settings.error("quantization_config", _QUANTISED)
    if settings.values.get("use_bidirectional_attention"):
        raise settings.error("use_bidirectional_attention", _NOT_CAUSAL)
    architectures = settings.values.get("architectures") or [families[0].architectures[0]]
    names = architectures if type(architectures) is list else []
    for family in families:
        if any(name in family.architectures for name in names):
            if settings.values.get("is_causal") is False and isinstance(family, Llama):
                raise settings.error("is_causal", _NOT_CAUSAL)
            return family
    supported = ", ".join(name for family in families for name in family.architectures)
    problem = f"is not supported; supported: {supported}"
    if any(str(name).endswith((*_HEADS, "DoubleHeadsModel")) for name in names):
        problem += "; import the model that this head was put on, and train it for the task"
    raise settings.error("architectures", problem)


def _other_families(kind: str, settings: Settings) -> str:
    """Returns what can be done with a model type that no family has."""
    kinds = list(dict.fromkeys(name for family in FAMILIES for name in family.model_types))
    part = settings.values.get("text_config")
    if type(part) is dict or "vision_config" in settings.values:
        of_text = part.get("model_type") if type(part) is dict else None
        remedy = f": save its model of texts, {of_text}, alone" if of_text in kinds else ""
        return f"reads more than texts, which is not supported{remedy}"
    near = difflib.get_close_matches(kind.lower(), kinds, n=1, cutoff=_LIKENESS)
    if near and _letters(near[0]) != _letters(kind):
        return f"is not supported, did you mean {near[0]!r}?"
    return "is not supported: docs/extras/huggingface.md has the families that are"


def _letters(kind: str) -> str:
    return "".join(filter(str.isalpha, kind))
