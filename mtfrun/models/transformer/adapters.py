"""Adapters of Transformers: prompts that are trained, and two small maps after every sublayer."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, POSITIVE, check_range
from mtfrun.layers import Adapter, Call, dense
from mtfrun.models.transformer.residual_transforms import TransformedLayer


class LearnedPrompt(mtf.Module):
    """Vectors {prompt_length, d_model} before a row's, after `learn`.

    Attributes:
      refusal: the reason why the model cannot have them, or "".
    """

    vectors: mtf.Variable | None = None
    refusal: str = ""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension) -> None:
        super().__init__()
        self._mesh, self._d_model = mesh, d_model

    def learn(self, length: int, stddev: float) -> None:
        shape = [mtf.Dimension("prompt_length", length), self._d_model]
        initializer = mtf.initializers.RandomNormal(stddev)
        self.vectors = mtf.Variable(self._mesh, shape, initializer, reduced_dims=())

    @property
    def length(self) -> int:
        return 0 if self.vectors is None else self.vectors.shape[0].size

    def for_rows(self, batch: mtf.ShapeLike, dtype: tf.DType) -> mtf.Tensor:
        """Returns the vectors {batch..., length, d_model} of rows without a text."""
        assert self.vectors is not None
        vectors = mtf.rename_dimension(self.vectors, self.vectors.shape[0].name, "length")
        return mtf.broadcast(
            mtf.cast(vectors, dtype), [*mtf.convert_to_shape(batch), *vectors.shape]
        )

    def before(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., length, d_model}, longer by the prompt, for x of such a shape."""
        if self.vectors is None:
            return x
        return mtf.concat([self.for_rows(x.shape.dims[:-2], x.dtype), x], "length")

    def before_ids(self, ids: mtf.Tensor, number: int = 1) -> mtf.Tensor:
        """Returns ids {..., length} after an id for every vector, by default not padding."""
        if self.vectors is None:
            return ids
        shape = ids.shape.resize_dimension("length", self.length)
        return mtf.concat([mtf.constant(ids.mesh, number, shape, ids.dtype), ids], "length")

    def before_positions(self, positions: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the positions {..., length} in texts that begin with the prompt."""
        if positions is None or self.vectors is None:
            return positions
        shape = positions.shape.resize_dimension("length", self.length)
        first = mtf.range(positions.mesh, mtf.Dimension("length", self.length))
        return mtf.concat([mtf.broadcast(first, shape), positions + self.length], "length")

    def after(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the part of {..., length, ...} that belongs to the text."""
        if self.vectors is None:
            return x
        size = x.shape.get_dim_by_name("length").size - self.length
        return mtf.slice(x, self.length, size, "length")


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
