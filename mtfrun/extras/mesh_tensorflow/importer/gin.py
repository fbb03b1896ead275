from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.configuration.files import SHIPPED
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.configuration.statements import Binding, Statements
from mtfrun.errors import ConfigError
from mtfrun.errors.untrusted import is_regular, open_regular
from mtfrun.experiment.conversion.importer import ConversionError

# Files include others relative to a search path, which is a directory above them.
_DIRECTORIES_ABOVE = 4

# Defaults of our classes.
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
    "zoo.TalkingHeads.dynamic_logits": [],
    "zoo.TalkingHeads.dynamic_weights": [],
    "zoo.TalkingHeads.dynamic_scale": 1e-2,
    "zoo.ConvolutionWindow.masks_start": False,
    "zoo.Convolution.activation": None,
    "zoo.DepthwiseConvolution.activation": None,
    "zoo.DepthwiseConvolution.pointwise_scale": 1.0,
    "zoo.TrainedFilters.scale": 1.0,
    "zoo.LightweightFilters.scale": 1.0,
    "zoo.LightweightFilters.repeats": 1,
    "zoo.DynamicFilters.scale": 1.0,
    "zoo.DynamicFilters.repeats": 1,
    "zoo.Synthesizer.dropout_rate": 0.0,
    "zoo.SyntheticLogits.max_length": 512,
    "zoo.SyntheticLogits.factor_size": 16,
    "moe.Experts.activations": [reference("@mtf.relu")],
    "moe.Experts.dropout_rate": 0.0,
    "moe.Switch.z_loss": 0.0,
    "moe.Top2.z_loss": 0.0,
    "moe.Top2.second_expert_loss": False,
    "moe.Threshold.threshold": 0.2,
    "moe.Random.threshold": 0.2,
    "optim.Adafactor.decay_rate": None,
    "optim.Adafactor.beta1": 0.0,
    "optim.Adafactor.epsilon1": 1e-30,
    "optim.Adafactor.clipping_threshold": 1.0,
    "optim.Adafactor.min_dim_size_to_factor": 128,
    "optim.Adafactor.stacked_dim_names": [],
    "optim.Adam.beta1": 0.9,
    "optim.Adam.beta2": 0.999,
    "optim.Adam.weight_decay": 0.0,
    "optim.Adam.exclude_from_weight_decay": [],
    "optim.ParameterScale.minimum": 1e-3,
    "optim.ParameterScale.exclude": [],
    "optim.PowerDecay.exponent": 0.8,
    "decoding.Search.beam_size": 1,
    "decoding.Search.alpha": 0.6,
    "decoding.Search.temperature": 0.0,
    "decoding.Search.top_k": 0,
    "decoding.Search.stop_early": True,
}


def read_gin_file(path: Path, search_paths: Sequence[str] = ()) -> list[Binding]:
    """Includes are searched for in `search_paths`, then in the directories above the file."""
    statements = _Statements()
    try:
        statements.add_file(str(path), search_paths)
    except ConfigError as error:
        raise ConversionError(str(error)) from error
    return statements.bindings


class _Statements(Statements):
    def find(self, name: str, search_paths: Sequence[str], including: tuple[Path, ...]) -> Path:
        if not including:
            try:
                open_regular(Path(name)).close()
            except OSError as error:
                raise ConfigError(f"{name}: {error.strerror}") from error
            return Path(name)
        path = including[-1]
        searched = [Path(directory).expanduser() for directory in search_paths]
        for directory in [*searched, *path.absolute().parents[:_DIRECTORIES_ABOVE]]:
            if is_regular(directory / name):
                return directory / name
        raise ConfigError(
            f"the included file {name} is in no directory above {path}: put it there, or name its "
            "directory in --gin_search_paths"
        )


class Draft(GinFile):
    """A gin file without the statements that an included file makes as well."""

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
