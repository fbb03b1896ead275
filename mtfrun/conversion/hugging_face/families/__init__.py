"""All families of models."""

from mtfrun.conversion.hugging_face.families.gpt2 import GPT2
from mtfrun.conversion.hugging_face.families.gpt_neo import GPTNeo
from mtfrun.conversion.hugging_face.families.llama import Llama, Mistral, Qwen2
from mtfrun.conversion.hugging_face.families.mixtral import Mixtral
from mtfrun.conversion.hugging_face.families.resnet import ResNet
from mtfrun.conversion.hugging_face.families.switch import SwitchTransformers
from mtfrun.conversion.hugging_face.families.t5 import T5

__all__ = [
    "GPT2",
    "T5",
    "GPTNeo",
    "Llama",
    "Mistral",
    "Mixtral",
    "Qwen2",
    "ResNet",
    "SwitchTransformers",
]
