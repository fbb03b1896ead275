"""All families of models."""

from mtfrun.tools.conversion.hugging_face.families.gpt2 import GPT2 as GPT2
from mtfrun.tools.conversion.hugging_face.families.gpt_neo import GPTNeo as GPTNeo
from mtfrun.tools.conversion.hugging_face.families.llama import Llama as Llama
from mtfrun.tools.conversion.hugging_face.families.llama import Mistral as Mistral
from mtfrun.tools.conversion.hugging_face.families.llama import Qwen2 as Qwen2
from mtfrun.tools.conversion.hugging_face.families.mixtral import Mixtral as Mixtral
from mtfrun.tools.conversion.hugging_face.families.resnet import ResNet as ResNet
from mtfrun.tools.conversion.hugging_face.families.switch import (
    SwitchTransformers as SwitchTransformers,
)
from mtfrun.tools.conversion.hugging_face.families.t5 import T5 as T5
