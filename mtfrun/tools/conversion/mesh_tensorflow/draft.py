"""A gin file that says only what the shipped files that it includes do not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtfrun.configuration.files import SHIPPED
from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.mesh_tensorflow.gin import read_gin_file

# What our classes have if nothing is bound to it.
_DEFAULTS = {
    "transformer.FeedForward.use_bias": False,
    "transformer.FeedForward.activation": reference("@mtf.relu"),
    "transformer.GatedFeedForward.activation": reference("@mtf.gelu"),
    "transformer.RMSNorm.epsilon": 1e-6,
    "transformer.LayerNorm.epsilon": 1e-6,
    "transformer.RelativePositionBias.num_buckets": 32,
    "transformer.TokenEmbedding.position": reference("@transformer.PositionalEmbedding"),
    "transformer.TokenEmbedding.tied_softmax": True,
    "transformer.TokenLoss.label_smoothing": 0.0,
    "transformer.TokenLoss.z_loss": 0.0,
    "moe.Experts.activations": [reference("@mtf.relu")],
    "moe.Experts.dropout_rate": 0.0,
    "moe.Switch.z_loss": 0.0,
    "moe.Top2.z_loss": 0.0,
    "moe.Top2.second_expert_loss": False,
    "moe.Threshold.threshold": 0.2,
    "moe.Random.threshold": 0.2,
    "decoding.Search.beam_size": 1,
    "decoding.Search.alpha": 0.6,
    "decoding.Search.temperature": 0.0,
    "decoding.Search.top_k": 0,
    "decoding.Search.stop_early": True,
}


class Draft(GinFile):
    """A gin file without the statements that an included file makes as well."""

    def has(self, target: str) -> bool:
        return bool(self.blocks.get(target))

    def text(self) -> str:
        included = {
            binding.name: binding.value
            for name in self.includes
            for binding in read_gin_file(SHIPPED / name)
        }
        macros = [s for s in self.macros if s is None or included.get(s.name, ...) != s.value]
        blocks = {
            target: {
                name: statement
                for name, statement in block.items()
                if _included_value(included, target, name) != statement.value
            }
            for target, block in self.blocks.items()
        }
        return GinFile(
            self.header,
            self.includes,
            macros,
            {target: block for target, block in blocks.items() if block},
        ).text()


def _included_value(included: Mapping[str, Any], target: str, name: str) -> Any:
    """... stands for no value."""
    unscoped = f"{target.rpartition('/')[2]}.{name}"
    default = _DEFAULTS.get(unscoped, ...)
    return included.get(f"{target}.{name}", included.get(unscoped, default))
