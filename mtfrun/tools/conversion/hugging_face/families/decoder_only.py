from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.models import moe, transformer
from mtfrun.models.transformer.residual_transforms import distinct_names
from mtfrun.tools.conversion.gin_file import GinFile

# Longer rows are for those who have the memory for them.
_LONGEST = 1024
_GLOBAL, _LOCAL = "transformer.SelfAttention", "transformer.LocalSelfAttention"


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The layers of a model, each of attention and a feed-forward sublayer, as blocks of a stack.

    All blocks are alike: of one layer in most models, of two if layers attend to everything and to
    a window in turn. `windows` has the positions of every layer's window, None for all positions;
    all windows have the same size. `feed_forward` is a class: "transformer.GatedFeedForward".
    """

    windows: Sequence[int | None]
    feed_forward: str

    @property
    def layers_of_block(self) -> int:
        number, windows = len(self.windows), list(self.windows)
        sizes = (size for size in range(1, number + 1) if number % size == 0)
        return next(size for size in sizes if windows == windows[:size] * (number // size))

    @property
    def sublayers(self) -> list[str]:
        windows = self.windows[: self.layers_of_block]
        attentions = [_LOCAL if window else _GLOBAL for window in windows]
        return [name for attention in attentions for name in (attention, self.feed_forward)]

    def paths(self, layer: int) -> tuple[str, str]:
        block, place = divmod(layer, self.layers_of_block)
        names = distinct_names([_class(name) for name in self.sublayers])
        first, second = names[2 * place : 2 * place + 2]
        return (
            f"decoder_stack/blocks/{block}/{first}",
            f"decoder_stack/blocks/{block}/{second}",
        )

    def write_gin(self, file: GinFile) -> None:
        comment = f"each of {self.layers_of_block} layers" if self.layers_of_block > 1 else ""
        file.macro("NUM_LAYERS", len(self.windows) // self.layers_of_block, comment)
        if any(self.windows):
            layers = [reference(f"@{name}") for name in self.sublayers]
            file.bind("transformer.Stack", {"layers": layers})

    def write_window(self, file: GinFile, parameters: Mapping[str, object]) -> None:
        """Adds the window of the local layers, if there are any, and further parameters of them."""
        window = next(filter(None, self.windows), None)
        if window is not None:
            heads = reference("@transformer.AttentionHeads()")
            rate = reference("%ATTENTION_DROPOUT_RATE")
            file.bind(
                _LOCAL, {"window": window, "heads": heads, **parameters, "dropout_rate": rate}
            )


def _class(name: str) -> type:
    module, _, class_name = name.partition(".")
    cls: type = getattr({"moe": moe, "transformer": transformer}[module], class_name)
    return cls


def write_row_length(max_positions: int, file: GinFile) -> None:
    comment = f"the model is made for up to {max_positions}" if max_positions > _LONGEST else ""
    file.macro("SEQUENCE_LENGTH", min(max_positions, _LONGEST), comment)
