"""The list of families, and the lookup of a configuration's family."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun.extras.huggingface.families import images
from mtfrun.extras.huggingface.families.encoder_decoders import bart, switch, t5
from mtfrun.extras.huggingface.families.encoders import bert, bert_variants
from mtfrun.extras.huggingface.families.gpt import gpt
from mtfrun.extras.huggingface.families.llama import layer_norms, llama, mixtures
from mtfrun.extras.huggingface.family import Family
from mtfrun.extras.huggingface.tables.settings import Settings

_TASKS = ("MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification")


def _encoders(*prefixes: str) -> list[str]:
    """Returns model classes, such as "BertForMaskedLM" and "BertModel"."""
    ends = [*(f"For{task}" for task in _TASKS), "Model"]
    return [f"{prefix}{end}" for prefix in prefixes for end in ends]


_ENCODERS_OF_ROBERTA = _encoders("Roberta", "XLMRoberta", "Camembert")
_T5 = ["T5ForConditionalGeneration", "MT5ForConditionalGeneration"]
_T5_ENCODERS = ["T5EncoderModel", "MT5EncoderModel"]


class Entry(NamedTuple):
    """A family, with values of model_type and architectures in config.json, and its name."""

    family: type[Family]
    model_type: str
    architectures: Sequence[str]
    name: str


FAMILIES = (
    Entry(t5.T5, "t5", _T5, "T5"),
    Entry(t5.T5, "mt5", _T5, "mT5"),
    Entry(t5.T5Encoder, "t5", _T5_ENCODERS, "T5"),
    Entry(t5.T5Encoder, "mt5", _T5_ENCODERS, "mT5"),
    Entry(t5.UMT5, "umt5", ["UMT5ForConditionalGeneration"], "umT5"),
    Entry(t5.LongT5, "longt5", ["LongT5ForConditionalGeneration"], "LongT5"),
    Entry(t5.LongT5Encoder, "longt5", ["LongT5EncoderModel"], "LongT5"),
    Entry(bart.Bart, "bart", ["BartForConditionalGeneration", "BartModel"], "BART"),
    Entry(bart.Marian, "marian", ["MarianMTModel"], "Marian"),
    Entry(bart.Pegasus, "pegasus", ["PegasusForConditionalGeneration"], "PEGASUS"),
    Entry(bart.MBart, "mbart", ["MBartForConditionalGeneration", "MBartModel"], "mBART"),
    Entry(bart.M2M100, "m2m_100", ["M2M100ForConditionalGeneration", "M2M100Model"], "M2M-100"),
    Entry(
        *(switch.SwitchTransformers, "switch_transformers"),
        *(["SwitchTransformersForConditionalGeneration"], "Switch Transformer"),
    ),
    Entry(gpt.GPT2, "gpt2", ["GPT2LMHeadModel"], "GPT-2"),
    Entry(gpt.GPTNeo, "gpt_neo", ["GPTNeoForCausalLM"], "GPT-Neo"),
    Entry(llama.Llama, "llama", ["LlamaForCausalLM"], "Llama"),
    Entry(llama.Mistral, "mistral", ["MistralForCausalLM"], "Mistral"),
    Entry(mixtures.Mixtral, "mixtral", ["MixtralForCausalLM"], "Mixtral"),
    Entry(llama.Qwen2, "qwen2", ["Qwen2ForCausalLM"], "Qwen2"),
    Entry(llama.Qwen3, "qwen3", ["Qwen3ForCausalLM"], "Qwen3"),
    Entry(llama.Phi3, "phi3", ["Phi3ForCausalLM"], "Phi-3"),
    Entry(llama.Glm, "glm", ["GlmForCausalLM"], "GLM-4"),
    Entry(llama.Glm4, "glm4", ["Glm4ForCausalLM"], "GLM-4"),
    Entry(llama.Olmo2, "olmo2", ["Olmo2ForCausalLM"], "OLMo 2"),
    Entry(llama.Olmo3, "olmo3", ["Olmo3ForCausalLM"], "OLMo 3"),
    Entry(llama.SmolLM3, "smollm3", ["SmolLM3ForCausalLM"], "SmolLM3"),
    Entry(llama.Gemma, "gemma", ["GemmaForCausalLM"], "Gemma"),
    Entry(llama.Gemma2, "gemma2", ["Gemma2ForCausalLM"], "Gemma 2"),
    Entry(llama.Gemma3, "gemma3_text", ["Gemma3ForCausalLM"], "Gemma 3"),
    Entry(llama.Granite, "granite", ["GraniteForCausalLM"], "Granite"),
    Entry(layer_norms.StableLm, "stablelm", ["StableLmForCausalLM"], "StableLM"),
    Entry(layer_norms.Olmo, "olmo", ["OlmoForCausalLM"], "OLMo"),
    Entry(layer_norms.Starcoder2, "starcoder2", ["Starcoder2ForCausalLM"], "StarCoder2"),
    Entry(layer_norms.Cohere, "cohere", ["CohereForCausalLM"], "Command R"),
    Entry(layer_norms.Cohere2, "cohere2", ["Cohere2ForCausalLM"], "Command R7B"),
    Entry(gpt.Phi, "phi", ["PhiForCausalLM"], "Phi"),
    Entry(gpt.GPTJ, "gptj", ["GPTJForCausalLM"], "GPT-J"),
    Entry(gpt.GPTNeoX, "gpt_neox", ["GPTNeoXForCausalLM"], "GPT-NeoX"),
    Entry(gpt.Falcon, "falcon", ["FalconForCausalLM"], "Falcon"),
    Entry(gpt.Opt, "opt", ["OPTForCausalLM"], "OPT"),
    Entry(gpt.Bloom, "bloom", ["BloomForCausalLM"], "BLOOM"),
    Entry(mixtures.Qwen2Moe, "qwen2_moe", ["Qwen2MoeForCausalLM"], "Qwen2"),
    Entry(mixtures.Qwen3Moe, "qwen3_moe", ["Qwen3MoeForCausalLM"], "Qwen3"),
    Entry(mixtures.Olmoe, "olmoe", ["OlmoeForCausalLM"], "OLMoE"),
    Entry(mixtures.DeepseekV3, "deepseek_v3", ["DeepseekV3ForCausalLM"], "DeepSeek-V3"),
    Entry(bert.Bert, "bert", _encoders("Bert"), "BERT"),
    Entry(bert_variants.Roberta, "roberta", _ENCODERS_OF_ROBERTA, "RoBERTa"),
    Entry(bert_variants.Roberta, "xlm-roberta", _ENCODERS_OF_ROBERTA, "XLM-RoBERTa"),
    Entry(bert_variants.Roberta, "camembert", _ENCODERS_OF_ROBERTA, "CamemBERT"),
    Entry(bert_variants.DistilBert, "distilbert", _encoders("DistilBert"), "DistilBERT"),
    Entry(bert_variants.ModernBert, "modernbert", _encoders("ModernBert"), "ModernBERT"),
    Entry(images.ResNet, "resnet", ["ResNetForImageClassification"], "ResNet"),
    Entry(images.ConvNext, "convnext", ["ConvNextForImageClassification"], "ConvNeXt"),
    Entry(images.ViT, "vit", ["ViTForImageClassification"], "ViT"),
)


# Similarity of model types; names that differ only in digits are other models.
_LIKENESS = 0.85
_QUANTISED = (
    "is not supported: import the folder of the model before it was quantised, or after "
    "model.dequantize() of transformers"
)
_NOT_CAUSAL = "is not supported: for text embeddings import an encoder, such as BERT's or T5's"
_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def family_of(settings: Settings) -> Family:
    """Raises ConversionError for unsupported model types or classes, and quantised weights."""
    kind = settings.text("model_type")
    entries = [entry for entry in FAMILIES if kind == entry.model_type]
    if not entries:
        raise settings.error("model_type", _other_families(kind, settings))
    if settings.values.get("quantization_config") is not None:
        raise settings.error("quantization_config", _QUANTISED)
    if settings.values.get("use_bidirectional_attention"):
        raise settings.error("use_bidirectional_attention", _NOT_CAUSAL)
    architectures = settings.values.get("architectures") or [entries[0].architectures[0]]
    names = architectures if type(architectures) is list else []
    for entry in entries:
        if any(name in entry.architectures for name in names):
            if settings.values.get("is_causal") is False and issubclass(entry.family, llama.Llama):
                raise settings.error("is_causal", _NOT_CAUSAL)
            return entry.family(settings, entry.name)
    supported = ", ".join(name for entry in entries for name in entry.architectures)
    problem = f"is not supported; supported: {supported}"
    if any(str(name).endswith((*_HEADS, "DoubleHeadsModel")) for name in names):
        problem += "; import the model without this head, and train it for the task"
    raise settings.error("architectures", problem)


def _other_families(kind: str, settings: Settings) -> str:
    """Returns the problem with an unknown model type, and a remedy."""
    kinds = list(dict.fromkeys(entry.model_type for entry in FAMILIES))
    part = settings.values.get("text_config")
    if type(part) is dict or "vision_config" in settings.values:
        text_type = part.get("model_type") if type(part) is dict else None
        remedy = f": save its text model, {text_type}, alone" if text_type in kinds else ""
        return f"reads more than texts, which is not supported{remedy}"
    near = difflib.get_close_matches(kind.lower(), kinds, n=1, cutoff=_LIKENESS)
    if near and _letters(near[0]) != _letters(kind):
        return f"is not supported, did you mean {near[0]!r}?"
    return "is not supported: docs/extras/huggingface.md has the families that are"


def _letters(kind: str) -> str:
    return "".join(filter(str.isalpha, kind))
