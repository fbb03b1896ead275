"""The rule of d_model, the size of the vectors between layers, which are normalised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.grow.dimension_map import DimensionMap, copies, first
from mtfrun.layers import Embedding, LayerNorm, RMSNorm, TokenVectors
from mtfrun.models.transformer import ConstantFactor, Stack, TokenSoftmax

D_MODEL, D_EMBEDDING = "d_model", "d_embedding"
_Norm = RMSNorm | LayerNorm
_Modules = Mapping[str, mtf.Module]


class Stream:
    """How the vectors x between layers grow from a to b entries.

    They become c * (x, 0) with c = sqrt(b / a). This keeps the mean square, so that norms return c
    times the old entries. Producers are scaled by c, consumers by 1 / c; the weights that
    read the zeros may have any values. A factor in the norms' scales instead of c would change the
    effect of epsilon (Gesmundo and Maile 2023, arXiv:2308.06103, section 3.4).

    Layer normalisation subtracts the mean: there new entries are the mean of the old ones (Wang et
    al. 2023, arXiv:2310.07999), and become 0. If it follows the sum of a layer and its input, or
    the embedding, only copies keep the function, the same number of each entry.

    Attributes:
      keeps_function: whether the rule keeps the function.
      final_norm, final_factor: the last norm before a softmax with the embedding's table, and its
        factor, which makes up for c in both the norm and the table, and for the table's factor.
    """

    def __init__(self, old: _Modules, new: _Modules, *, with_copies: bool) -> None:
        self._norms = {
            path: module
            for path, module in new.items()
            if isinstance(module, RMSNorm | LayerNorm)
            and module.scale is not None
            and module.scale.shape.dimension_names == [D_MODEL]
        }
        self._is_centred = any(isinstance(norm, LayerNorm) for norm in self._norms.values())
        # Image networks may have no d_model.
        sizes = {
            variable.shape.get_dim_by_name(D_MODEL).size
            for modules in (old, new)
            for variable in modules[""].named_variables().values()
            if D_MODEL in variable.shape.dimension_names
        } or {1}
        for module in new.values() if len(sizes) > 1 else ():
            if isinstance(module, TokenVectors) and not isinstance(module, Embedding):
                raise InputError(
                    "TokenEmbedding.table: with tables of several widths d_model cannot grow"
                )
            if isinstance(module, LayerNorm) and module.scale is None:
                raise InputError("LayerNorm.use_scale=False: without scales d_model cannot grow")
        is_multiple, writes_centred = max(sizes) % min(sizes) == 0, self._writes_centred(list(new))
        self._copies = with_copies or (writes_centred and is_multiple)
        self.keeps_function = is_multiple if self._copies else not writes_centred
        # The factor of the embedding tables, or of the projection of a factorised table.
        self._embedding_factor = _first_factor(old) / _first_factor(new)
        self.final_norm: _Norm | None = None
        self.final_factor = 1.0
        tied = _tied(new)
        if tied is not None:
            before, after = old[tied], new[tied]
            assert isinstance(before, Embedding) and isinstance(after, Embedding)
            a, b = (x.table.shape.get_dim_by_name(D_MODEL).size for x in (before, after))
            after_scale = after.logits_scale * b / a * self._embedding_factor
            self.final_factor = before.logits_scale / after_scale
            for path, norm in self._norms.items():
                if path.rpartition("/")[2].startswith("final_"):
                    self.final_norm = norm

    def map(
        self, path: str, variable: mtf.Variable, old: int, new: int, *, is_summed: bool
    ) -> DimensionMap:
        """Returns the map of d_model in a variable of the new model."""
        owner, _, name = path.rpartition("/")
        factor = math.sqrt(new / old)
        reduced = {dim.name for dim in variable.reduced_dims or ()}
        is_table = "/blocks/" not in path and reduced <= {D_EMBEDDING} and variable.shape.ndims > 1
        is_table = is_table and not is_summed
        if self._copies:
            dim_map = copies(old, new, is_summed=is_summed)
            factor = self._embedding_factor if is_table else 1.0
            return dataclasses.replace(dim_map, factor=dim_map.factor * factor)
        source = first(old, new)
        if is_summed:
            return DimensionMap(source, factor=1.0 / factor)
        if owner in self._norms:
            return DimensionMap(source, factor=1.0 if name == "scale" else factor)
        if is_table:
            factor *= self._embedding_factor
        return DimensionMap(source, factor=factor, fill="mean" if self._is_centred else "zero")

    def _writes_centred(self, paths: Sequence[str]) -> bool:
        """Returns whether layer normalisation produces the vectors, or what is added to them."""
        for path, norm in self._norms.items():
            parent, _, name = path.rpartition("/")
            is_behind = "/blocks/" not in path or f"{parent}/layer" in paths[: paths.index(path)]
            if isinstance(norm, LayerNorm) and is_behind and not name.startswith("final_"):
                return True
        return False


def _first_factor(modules: _Modules) -> float:
    """Returns the factor of the vectors before the first layer, see `ConstantFactor`."""
    tables = [x for x in modules.values() if isinstance(x, Embedding) and x.projection is None]
    if any(table.factor is not None for table in tables):
        raise InputError(
            "TokenEmbedding.scaled_vectors: the vectors of ids have a factor by their size, and "
            "vectors of positions have none: d_model cannot grow"
        )
    for stack in modules.values():
        if isinstance(stack, Stack):
            for name, transform in vars(stack).items():
                if isinstance(transform, ConstantFactor) and not name.startswith("final_"):
                    return transform.factor
    return 1.0


def _tied(modules: _Modules) -> str | None:
    """Returns the path of the embedding whose table {vocab, d_model} is a softmax's kernel too.

    None without one: d_model is a factor once in a softmax with its own kernel or a projection.
    """
    softmaxes = [x for x in modules.values() if isinstance(x, TokenSoftmax)]
    kernels = [x.kernel for x in softmaxes if x.projection is None]
    for path, module in modules.items():
        if isinstance(module, Embedding) and any(module.table is kernel for kernel in kernels):
            return path
    return None
