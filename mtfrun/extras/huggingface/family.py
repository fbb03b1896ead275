"""A model of Hugging Face: its configuration as a gin file, and its tensors.

A new family is a line in `families/registry.py`, and a class if its computation differs. Import,
export and PEFT share its tensor table (`tensor_table.py`).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.configuration.published import load_published
from mtfrun.extras.huggingface.generation import read_generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer
from mtfrun.models.transformer.residual_transforms import distinct_names


class Processor(Protocol):
    """A part of a model's input or output processing: a tokenizer, decoding settings."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes for the user."""

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds its settings to the run's gin file, after model and data."""


Size = tuple[str] | tuple[str, int]
"""The name of a setting, and perhaps its default."""


class Family(abc.ABC):
    """A model of a family.

    Attributes:
      settings: its config.json.
      name: its name for users, such as "Mistral" or "T5 1.1".
      notes: differences from transformers, for the user.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name, self.notes = settings, name, list[str]()

    @property
    def ties(self) -> Mapping[str, str]:
        """Tensors that may be copies, outside of the table, by their originals."""
        return {}

    def module_of(self, tensor: str) -> str:
        """Returns transformers' module of a kernel."""
        return tensor.removesuffix(".weight")

    def write_sizes(self, file: GinFile, width: Size, d_ff: Size, num_heads: Size) -> None:
        """Adds the sizes of a stack, by the names of their settings."""
        d_model, heads = self.settings.integer(*width), self.settings.integer(*num_heads)
        if d_model % heads:
            raise self.settings.error(num_heads[0], f"must divide {d_model}, the size of all heads")
        file.macro("D_MODEL", d_model)
        file.macro("D_FF", self.settings.integer(*d_ff))
        file.macro("NUM_HEADS", heads)
        file.macro("D_KV", d_model // heads)

    @abc.abstractmethod
    def processors(self, folder: Folder) -> Sequence[Processor]:
        """Returns the processors in the order of the gin file."""

    @abc.abstractmethod
    def write_gin(self, file: GinFile) -> None:
        """Adds model and data; processors add the vocabulary or the size of images.

        Raises ConversionError for unsupported settings.
        """

    @abc.abstractmethod
    def table(self) -> TensorTable:
        """Returns the table of the folder's tensors and our variables."""


class TextFamily(Family):
    """Models of text. `pad_id` pads rows: 0, or -1 if id 0 is a token."""

    pad_id: int = 0
    num_layers = "num_hidden_layers"
    reads_layer_types = True

    def processors(self, folder: Folder) -> Sequence[Processor]:
        tokenizer = read_tokenizer(folder, self.settings, self.pad_id)
        return [tokenizer, read_generation(folder, self.settings, tokenizer.end_id)]

    @property
    def window(self) -> int | None:
        """The attention window of local layers."""
        return None

    def is_local(self, layer: int) -> bool:
        """Returns whether a layer has the window, if a configuration has no types of layers."""
        return True

    @functools.cached_property
    def windows(self) -> Sequence[int | None]:
        """The attention window of each layer; None for all positions."""
        settings, number = self.settings, self.settings.count(self.num_layers)
        window, kinds = self.window, self.settings.values.get("layer_types")
        if window is None:
            return [None] * number
        if kinds is None or not self.reads_layer_types:
            return [window if self.is_local(layer) else None for layer in range(number)]
        if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
            raise settings.error("layer_types", f"must be a list of {FULL} and {SLIDING}")
        if len(kinds) != number:
            raise settings.error("layer_types", f"must have {number} entries")
        return [window if kind == SLIDING else None for kind in kinds]

    def write_windows(self, file: GinFile, parameters: Mapping[str, object]) -> None:
        """Adds the window and further parameters of local layers, if any."""
        if any(self.windows):
            heads = reference("@transformer.AttentionHeads()")
            rate = reference("%ATTENTION_DROPOUT_RATE")
            local = {"window": self.window, "heads": heads, **parameters, "dropout_rate": rate}
            file.bind(LOCAL, local)

    def write_text_data(self, file: GinFile, example: str) -> None:
        """Adds `write_training_texts` and transformers' beam search."""
        write_training_texts(file, example)
        file.bind("decoding.Search", {"as_transformers": True})

    def write_pairs_data(self, file: GinFile, longest: int) -> None:
        self.write_text_data(file, "data/tsv_pairs.gin")
        file.macro("INPUTS_LENGTH", longest, "tokens of the longest texts")
        file.macro("TARGETS_LENGTH", longest)
        file.gap()

    def write_row_length(self, file: GinFile, max_positions: int) -> None:
        is_longer = max_positions > _LONGEST
        comment = f"the model is made for up to {max_positions}" if is_longer else ""
        file.macro("SEQUENCE_LENGTH", min(max_positions, _LONGEST), comment)


def write_training_texts(file: GinFile, example: str) -> None:
    """Adds the macro for data, with a comment that suggests the gin file `example`."""
    file.macro(
        "TRAINING_DATA",
        reference("@data.NoSource()"),
        f"none yet: add --gin_file={example}, or another file of data, behind this one",
    )
    file.bind("data.Task", {"source": reference("%TRAINING_DATA")})


_MOST_UNNAMED = 1000


def names_of_labels(settings: Settings) -> list[str]:
    names = settings.values.get("id2label")
    if names is None:  # omitted by transformers for two default names
        number = settings.integer("num_labels", 2)
        if number > _MOST_UNNAMED:
            raise settings.error("num_labels", "needs id2label, the names of the classes")
        return [f"LABEL_{i}" for i in range(number)]
    if type(names) is not dict or set(names) != {str(number) for number in range(len(names))}:
        raise settings.error("id2label", "must name the classes 0, 1, 2, ...")
    return [str(names[str(number)]) for number in range(len(names))]


def write_training_images(file: GinFile) -> None:
    """Adds the macro for images; the caller binds `data.NoImages`."""
    file.macro(
        "TRAINING_IMAGES",
        reference("@data.NoImages()"),
        "or add --gin_file=data/image_folders.gin behind this one",
    )
    file.bind("data.ImageData", {"source": reference("%TRAINING_IMAGES")})


# Longer rows need much memory.
_LONGEST = 1024
GLOBAL, LOCAL = "transformer.SelfAttention", "transformer.LocalSelfAttention"
FEED_FORWARD, GATED = "transformer.FeedForward", "transformer.GatedFeedForward"
LAYERS = (GLOBAL, FEED_FORWARD)
MIXTURE, PARALLEL = "moe.DroplessMoE", "huggingface.Parallel"
# Types of layers in configurations.
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The layers of a model as equal blocks of a stack.

    Most blocks have one layer; two if global and local layers alternate. `layers` has the gin names
    of each layer's sublayers, with scopes for other parameters:
    ("no_positions/transformer.SelfAttention", "transformer.GatedFeedForward").
    """

    layers: Sequence[tuple[str, ...]]
    stack: str = "decoder_stack"

    @classmethod
    def of_windows(
        cls, windows: Sequence[int | None], feed_forward: str, stack: str = "decoder_stack"
    ) -> Blocks:
        """Returns layers of attention, local with a window, and `feed_forward`."""
        layers = [(LOCAL if window else GLOBAL, feed_forward) for window in windows]
        return cls(layers, stack)

    @functools.cached_property
    def layers_of_block(self) -> int:
        number, layers = len(self.layers), list(self.layers)
        sizes = (size for size in range(1, number + 1) if number % size == 0)
        return next(size for size in sizes if layers == layers[:size] * (number // size))

    @property
    def sublayers(self) -> list[str]:
        return [name for layer in self.layers[: self.layers_of_block] for name in layer]

    def paths(self, layer: int) -> list[str]:
        """Returns the paths of a layer's sublayers."""
        block, place = divmod(layer, self.layers_of_block)
        first = sum(map(len, self.layers[:place]))
        all_names = distinct_names([_class(name) for name in self.sublayers])
        names = all_names[first : first + len(self.layers[place])]
        return [f"{self.stack}/blocks/{block}/{name}" for name in names]

    def write_gin(self, file: GinFile, usual: Sequence[str]) -> None:
        """Adds the number of blocks, and their sublayers unless `usual`."""
        comment = f"each of {self.layers_of_block} layers" if self.layers_of_block > 1 else ""
        file.macro("NUM_LAYERS", len(self.layers) // self.layers_of_block, comment)
        if self.sublayers != list(usual):
            file.bind("transformer.Stack", {"layers": classes(*self.sublayers)})


def classes(*names: str) -> list[Reference]:
    return [reference(f"@{name}") for name in names]


def write_transforms(file: GinFile, *names: str, parameter: str = "layer") -> None:
    """Sets a list of transforms, by default those around each sublayer."""
    layers = classes(*(f"transformer.{name}" for name in names))
    file.bind("transformer.StackTransforms", {parameter: layers})


def parallel_paths(path: str, *layers: str) -> list[str]:
    """Returns the paths of the layers of a `huggingface.Parallel`."""
    return [f"{path}/layer/layers/{name}" for name in distinct_names(list(map(_class, layers)))]


def _class(name: str) -> type:
    cls: type = load_published()[name.rpartition("/")[2]]
    return cls
