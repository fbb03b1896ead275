"""The list of families, and the lookup of a configuration's family."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mtfrun.extras.huggingface.families import images
from mtfrun.extras.huggingface.families.encoder_decoders import bart, switch, t5
from mtfrun.extras.huggingface.families.encoders import bert, modernbert
from mtfrun.extras.huggingface.families.gpt import gpt2, gpt_neox
from mtfrun.extras.huggingface.families.llama import layer_norms, llama, mixtures
from mtfrun.extras.huggingface.family import Family
from mtfrun.extras.huggingface.tables.settings import Settings

_TASKS = ("MaskedLM", "SequenceClassification", "QuestionAnswering", "TokenClassification")


def _encoders(*prefixes: str) -> list[str]:
    """Returns model classes, such as "BertForMaskedLM" and "BertModel"."""
    ends = [*(f"For{task}" for task in _TASKS), "Model"]
    return [f"{prefix}{end}" for prefix in prefixes for end in ends]


# Values of model_type and architectures in config.json, and the display name.
FAMILIES: Sequence[Family] = (
    t5.T5(["t5", "mt5"], ["T5ForConditionalGeneration", "MT5ForConditionalGeneration"], "T5"),
    t5.T5Encoder(["t5", "mt5"], ["T5EncoderModel", "MT5EncoderModel"], "T5"),
    t5.UMT5(["umt5"], ["UMT5ForConditionalGeneration"], "umT5"),
    t5.LongT5(["longt5"], ["LongT5ForConditionalGeneration"], "LongT5"),
    t5.LongT5Encoder(["longt5"], ["LongT5EncoderModel"], "LongT5"),
    bart.Bart(["bart"], ["BartForConditionalGeneration", "BartModel"], "BART"),
    bart.Marian(["marian"], ["MarianMTModel"], "Marian"),
    bart.Pegasus(["pegasus"], ["PegasusForConditionalGeneration"], "PEGASUS"),
    bart.MBart(["mbart"], ["MBartForConditionalGeneration", "MBartModel"], "mBART"),
    bart.M2M100(["m2m_100"], ["M2M100ForConditionalGeneration", "M2M100Model"], "M2M-100"),
    switch.SwitchTransformers(
        *(["switch_transformers"], ["SwitchTransformersForConditionalGeneration"]),
        "Switch Transformer",
    ),
    gpt2.GPT2(["gpt2"], ["GPT2LMHeadModel"], "GPT-2"),
    gpt2.GPTNeo(["gpt_neo"], ["GPTNeoForCausalLM"], "GPT-Neo"),
    llama.Llama(["llama"], ["LlamaForCausalLM"], "Llama"),
    llama.Mistral(["mistral"], ["MistralForCausalLM"], "Mistral"),
    mixtures.Mixtral(["mixtral"], ["MixtralForCausalLM"], "Mixtral"),
    llama.Qwen2(["qwen2"], ["Qwen2ForCausalLM"], "Qwen2"),
    llama.Qwen3(["qwen3"], ["Qwen3ForCausalLM"], "Qwen3"),
    llama.Phi3(["phi3"], ["Phi3ForCausalLM"], "Phi-3"),
    llama.Glm(["glm"], ["GlmForCausalLM"], "GLM-4"),
    llama.Glm4(["glm4"], ["Glm4ForCausalLM"], "GLM-4"),
    llama.Olmo2(["olmo2"], ["Olmo2ForCausalLM"], "OLMo 2"),
    llama.Olmo3(["olmo3"], ["Olmo3ForCausalLM"], "OLMo 3"),
    llama.SmolLM3(["smollm3"], ["SmolLM3ForCausalLM"], "SmolLM3"),
    llama.Gemma(["gemma"], ["GemmaForCausalLM"], "Gemma"),
    llama.Gemma2(["gemma2"], ["Gemma2ForCausalLM"], "Gemma 2"),
    llama.Gemma3(["gemma3_text"], ["Gemma3ForCausalLM"], "Gemma 3"),
    llama.Granite(["granite"], ["GraniteForCausalLM"], "Granite"),
    layer_norms.StableLm(["stablelm"], ["StableLmForCausalLM"], "StableLM"),
    layer_norms.Olmo(["olmo"], ["OlmoForCausalLM"], "OLMo"),
    layer_norms.Starcoder2(["starcoder2"], ["Starcoder2ForCausalLM"], "StarCoder2"),
    layer_norms.Cohere(["cohere"], ["CohereForCausalLM"], "Command R"),
    layer_norms.Cohere2(["cohere2"], ["Cohere2ForCausalLM"], "Command R7B"),
    gpt2.Phi(["phi"], ["PhiForCausalLM"], "Phi"),
    gpt2.GPTJ(["gptj"], ["GPTJForCausalLM"], "GPT-J"),
    gpt_neox.GPTNeoX(["gpt_neox"], ["GPTNeoXForCausalLM"], "GPT-NeoX"),
    gpt_neox.Falcon(["falcon"], ["FalconForCausalLM"], "Falcon"),
    gpt2.Opt(["opt"], ["OPTForCausalLM"], "OPT"),
    gpt_neox.Bloom(["bloom"], ["BloomForCausalLM"], "BLOOM"),
    mixtures.Qwen2Moe(["qwen2_moe"], ["Qwen2MoeForCausalLM"], "Qwen2"),
    mixtures.Qwen3Moe(["qwen3_moe"], ["Qwen3MoeForCausalLM"], "Qwen3"),
    mixtures.Olmoe(["olmoe"], ["OlmoeForCausalLM"], "OLMoE"),
    mixtures.DeepseekV3(["deepseek_v3"], ["DeepseekV3ForCausalLM"], "DeepSeek-V3"),
    bert.Bert(["bert"], _encoders("Bert"), "BERT"),
    bert.Roberta(
        ["roberta", "xlm-roberta", "camembert"],
        _encoders("Roberta", "XLMRoberta", "Camembert"),
        "RoBERTa",
    ),
    bert.DistilBert(["distilbert"], _encoders("DistilBert"), "DistilBERT"),
    modernbert.ModernBert(["modernbert"], _encoders("ModernBert"), "ModernBERT"),
    images.ResNet(["resnet"], ["ResNetForImageClassification"], "ResNet"),
    images.ConvNext(["convnext"], ["ConvNextForImageClassification"], "ConvNeXt"),
    images.ViT(["vit"], ["ViTForImageClassification"], "ViT"),
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
            if settings.values.get("is_causal") is False and isinstance(family, llama.Llama):
                raise settings.error("is_causal", _NOT_CAUSAL)
            return family
    supported = ", ".join(name for family in families for name in family.architectures)
    problem = f"is not supported; supported: {supported}"
    if any(str(name).endswith((*_HEADS, "DoubleHeadsModel")) for name in names):
        problem += "; import the model without this head, and train it for the task"
    raise settings.error("architectures", problem)


def _other_families(kind: str, settings: Settings) -> str:
    """Returns the problem with an unknown model type, and a remedy."""
    kinds = list(dict.fromkeys(name for family in FAMILIES for name in family.model_types))
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
