"""Product-key memory, in place of a feed-forward layer."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, Dense, LayerNorm
from mtfrun.models.transformer.sublayer import Sublayer


class ProductKeyMemory(Sublayer):
    """Reads the best of num_keys**2 values; Lample et al. 2019, arXiv:1907.05242, section 3.

    A value's key is a pair of half keys, `num_keys` each; the best pairs have the best halves.
    As in Mesh TensorFlow, queries have a layer norm in place of the paper's batch norm.

    Args:
      num_heads: the number of heads, which share the values.
      key_size: the size of a key, twice a half's.
      num_selected: the number of values that each head reads.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_keys: int = 128,
        num_heads: int = 4,
        key_size: int = 128,
        num_selected: int = 32,
    ) -> None:
        super().__init__()
        for name, size in (("num_keys", num_keys), ("num_selected", num_selected)):
            check_range(f"ProductKeyMemory.{name}", size, COUNT)
        if key_size % 2 or num_selected > num_keys:
            raise InputError(
                f"ProductKeyMemory: key_size={key_size} must be even, and "
                f"num_selected={num_selected} at most num_keys={num_keys}"
            )
        self._dtypes, self._d_model = dtypes, d_model
        self._heads, self._halves = mtf.Dimension("heads", num_heads), mtf.Dimension("halves", 2)
        self._keys = mtf.Dimension("product_keys", num_keys)
        self._memory = mtf.Dimension("memory_values", num_keys**2)
        self._selected = mtf.Dimension("selected", num_selected)
        half = mtf.Dimension("half_key", key_size // 2)
        self.query = Dense(mesh, [d_model], [self._heads, self._halves, half], dtypes)
        self.norm = LayerNorm(mesh, half, dtypes)
        limit = (6.0 / (2 * num_heads * (num_keys + half.size))) ** 0.5
        self.keys = mtf.Variable(
            mesh,
            [self._heads, self._halves, self._keys, half],
            mtf.initializers.RandomUniform(-limit, limit),
            dtypes.master,
            reduced_dims=[half],
        )
        initial = mtf.initializers.RandomNormal(d_model.size**-0.5)
        self.values = mtf.Variable(
            mesh, [self._memory, d_model], initial, dtypes.master, reduced_dims=()
        )

    @property
    def active_shares(self) -> Mapping[mtf.Variable, float]:
        read = self._heads.size * self._selected.size
        return {self.values: min(1.0, read / self._memory.size)}

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        dtype = self._dtypes.activation
        query = self.norm(self.query(x, call), call)
        outer = (x.shape - self._d_model).dims
        scores = mtf.einsum(
            [query, mtf.cast(self.keys, dtype)],
            output_shape=[*outer, self._heads, self._halves, self._keys],
        )
        scores, places = self._best_pairs(*mtf.top_k(scores, self._keys, self._selected))
        weights = mtf.cast(mtf.softmax(mtf.to_float(scores), self._selected), dtype)
        shape = [*weights.shape, self._d_model]
        read = mtf.gather(mtf.cast(self.values, dtype), places, self._memory, output_shape=shape)
        return mtf.einsum([weights, read], output_shape=x.shape)

    def _best_pairs(self, scores: mtf.Tensor, keys: mtf.Tensor) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns the best pairs {..., selected} of the best halves {..., halves, selected}."""
        second = mtf.Dimension("selected_2", self._selected.size)
        pairs = mtf.Dimension("pairs", self._selected.size**2)

        def pair(first_half: mtf.Tensor, second_half: mtf.Tensor) -> mtf.Tensor:
            second_half = mtf.rename_dimension(second_half, self._selected.name, second.name)
            shape = [*first_half.shape, second]
            both = mtf.add(first_half, second_half, output_shape=shape)
            return mtf.replace_dimensions(both, [self._selected, second], pairs)

        first_keys, second_keys = mtf.unstack(keys, self._halves)
        places = pair(first_keys * self._keys.size, second_keys)
        scores, chosen = mtf.top_k(pair(*mtf.unstack(scores, self._halves)), pairs, self._selected)
        return scores, mtf.gather(places, chosen, pairs)
