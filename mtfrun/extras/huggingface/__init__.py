"""Folders of Hugging Face: config.json, safetensors, tokenizers; import and export."""

from typing import TYPE_CHECKING

from mtfrun.configuration.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mtfrun.extras.huggingface.dataset import HuggingFaceDataset as HuggingFaceDataset
    from mtfrun.extras.huggingface.id_processors import FirstIds as FirstIds
    from mtfrun.extras.huggingface.id_processors import ForbiddenFirstIds as ForbiddenFirstIds
    from mtfrun.extras.huggingface.id_processors import ForbiddenIds as ForbiddenIds
    from mtfrun.extras.huggingface.id_processors import ForbiddenWords as ForbiddenWords
    from mtfrun.extras.huggingface.id_processors import LastIds as LastIds
    from mtfrun.extras.huggingface.layers.latent_attention import LatentHeads as LatentHeads
    from mtfrun.extras.huggingface.layers.latent_attention import (
        LatentSelfAttention as LatentSelfAttention,
    )
    from mtfrun.extras.huggingface.layers.parallel import Parallel as Parallel
    from mtfrun.extras.huggingface.layers.rotary_scaling import DynamicScaling as DynamicScaling
    from mtfrun.extras.huggingface.layers.rotary_scaling import LinearScaling as LinearScaling
    from mtfrun.extras.huggingface.layers.rotary_scaling import Llama3Scaling as Llama3Scaling
    from mtfrun.extras.huggingface.layers.rotary_scaling import LongRopeScaling as LongRopeScaling
    from mtfrun.extras.huggingface.layers.rotary_scaling import YarnScaling as YarnScaling
    from mtfrun.extras.huggingface.layers.transient_global_attention import BlockSums as BlockSums
    from mtfrun.extras.huggingface.layers.transient_global_attention import (
        TransientGlobalAttention as TransientGlobalAttention,
    )
    from mtfrun.extras.huggingface.tokenizers.vocabulary import (
        HuggingFaceVocabulary as HuggingFaceVocabulary,
    )
    from mtfrun.extras.huggingface.tokenizers.vocabulary import ids_of_tokens as ids_of_tokens

__all__, __getattr__ = lazy_exports(__file__)
