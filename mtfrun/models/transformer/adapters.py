"""Adapters of Transformers: prompts that are trained, and two small maps after every sublayer."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, check_range
from mtfrun.layers import Adapter, Call, dense
from mtfrun.models.transformer.residual_transforms import TransformedLayer
from mtfrun.models.transformer.stack import LearnedPrompt


@dataclasses.dataclass(frozen=True)
class LearnedPrompts(Adapter):
    """Trains vectors before the inputs of an encoder-decoder, or before a language model's text.

    Prompt tuning; Lester et al. 2021, arXiv:2104.08691. All texts of a packed row see the vectors;
    pairs of an encoder-decoder are not packed, since an encoder's vectors see the inputs. Relative
    and rotary positions count them, a table of positions does not.

    Attributes:
      length, stddev: the number of vectors, and the standard deviation of their initial values.
    """

    length: int = 20
    stddev: float = 0.5

    def __post_init__(self) -> None:
        check_range("LearnedPrompts.length", self.length, COUNT)
        check_range("LearnedPrompts.stddev", self.stddev, POSITIVE)

    def attach(self, root: mtf.Module) -> None:
        prompts = [x for x in root.named_modules().values() if isinstance(x, LearnedPrompt)]
        refusals = [prompt.refusal for prompt in prompts] or ["it reads no text"]
        if any(refusals):
            raise InputError(f"{type(root).__name__} takes no LearnedPrompts: {refusals[0]}")
        for prompt in prompts:
            prompt.learn(self.length, self.stddev)


@dataclasses.dataclass(frozen=True)
class Bottlenecks(Adapter):
    """Trains x + relu(x * down) * up after sublayers, before their residual; up begins with zeros.

    Houlsby et al. 2019, arXiv:1902.00751, section 2.1; of T5 in Raffel et al. 2020,
    arXiv:1910.10683, section 3.5.1.

    Attributes:
      size: the size of the vectors between the two maps.
      sublayers: a regular expression, searched in the paths of sublayers; by default all sublayers.
        "feed_forward$" is as in Raffel et al.
    """

    size: int = 64
    sublayers: str = ".*"

    def __post_init__(self) -> None:
        check_range("Bottlenecks.size", self.size, COUNT)

    def attach(self, root: mtf.Module) -> None:
        layers = {
            path: module
            for path, module in root.named_modules().items()
            if isinstance(module, TransformedLayer)
        }
        for path in mtf.find_paths(layers, self.sublayers, "sublayers", "Bottlenecks.sublayers"):
            layer = layers[path]
            layer.adapter = Bottleneck(layer.mesh, layer.d_model, self.size)


class Bottleneck(mtf.Module):
    """A residual layer of two maps, {d_model, bottleneck} and back, each with a bias."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, size: int) -> None:
        super().__init__()
        self._d_model, self._bottleneck = d_model, mtf.Dimension("bottleneck", size)
        into, out = [d_model], [self._bottleneck]
        self.down = mtf.Variable(mesh, [*into, *out], mtf.VarianceScaling()(into, out))
        self.down_bias = mtf.Variable(mesh, out)
        self.up = mtf.Variable(mesh, [*out, *into], reduced_dims=out)
        self.up_bias = mtf.Variable(mesh, into)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        down, down_bias, up, up_bias = (
            mtf.cast(v, x.dtype) for v in (self.down, self.down_bias, self.up, self.up_bias)
        )
        into, out = [self._d_model], [self._bottleneck]
        hidden = mtf.relu(dense(x, down, down_bias, reduced_dims=into, new_dims=out))
        change = dense(hidden, up, up_bias, reduced_dims=out, new_dims=into)
        return x + mtf.einsum([change], output_shape=x.shape)
