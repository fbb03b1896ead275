"""A family of Hugging Face models: configurations, gin files, tensors.

A new family is a line in `families/registry.py`, and a class if its computation differs. Import,
export and PEFT share its tensor table (`tensor_table.py`).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.configuration.published import load_published
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.generation import read_generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer
from mtfrun.models.transformer.residual_transforms import distinct_names

Parameters = Mapping[str, Mapping[str, Any]]

# The modules of model classes in configurations.
_MODULES = ("transformer", "moe", "resnet", "layers", "huggingface", "text_tasks", "vision", "zoo")
# Settings that do not affect inference: an export compares tokenizers by their files.
_WITHOUT_EFFECT = (
    *("HuggingFaceVocabulary", "HuggingFaceDataset", "ids_of_tokens", "LabelVocabulary"),
    *("LabelSetVocabulary", "NumberVocabulary", "TextPairs", "WordLabels", "SpanData"),
    *("TextClassificationData", "TokenClassificationData", "RandAugment"),
    *("TokenLoss", "ImageLoss", "Jitter", "InputDropout", "SublayerDropout", "ImageMixing"),
    *("dropout_rate", "rate", "loss", "loss_coef", "z_loss", "input_noise", "round_factor"),
    *("rematerialise", "scan_blocks", "block_length", "max_length", "vocabulary_divisor"),
    *("routes_padding", "shift_across_segments", "loss_on_targets_only", "mixing"),
)


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """`parameters` are by "scope/module.Class" and name, `vocabulary_sizes` by table path."""

    parameters: Parameters
    shapes: Mapping[str, tuple[int, ...]]
    vocabulary_sizes: Mapping[str, int]

    def parameter(self, target: str, name: str) -> Any:
        return self.parameters.get(target, {}).get(name)

    def num_blocks(self, stack: str) -> int:
        prefix = f"{stack}/blocks/"
        return len({p.split("/")[2] for p in self.shapes if p.startswith(prefix)})

    def check_computes_as(self, other: ModelDescription, what: str) -> None:
        """Raises ConversionError unless both models have equal variables and outputs."""
        if dict(self.shapes) != dict(other.shapes):
            paths = sorted(set(self.shapes.items()) ^ set(other.shapes.items()))
            raise ConversionError(
                f"the model differs from {what}: {paths[0][0]} differs; export it with "
                "--format=safetensors"
            )
        ours, theirs = _of_model(self.parameters), _of_model(other.parameters)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                raise ConversionError(
                    f"the model differs from {what}: {name}={ours.get(name)!r} there is "
                    f"{theirs.get(name)!r}; export it with --format=safetensors"
                )


def _of_model(parameters: Parameters) -> dict[str, Any]:
    return {
        f"{target}.{name}": value
        for target, arguments in parameters.items()
        for module, _, cls in [target.rpartition("/")[2].rpartition(".")]
        if module in _MODULES and cls not in _WITHOUT_EFFECT
        for name, value in arguments.items()
        if name not in _WITHOUT_EFFECT
    }


class Processor(Protocol):
    """A part of a model's input or output processing: a tokenizer, decoding settings."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """Files by name, which the run needs and the export writes."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes for the user."""

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        """Adds its settings to the run's gin file, after model and data."""


@dataclasses.dataclass(frozen=True)
class Family(abc.ABC):
    """Models of Hugging Face that one of our gin files describes.

    `model_types` and `architectures` are values in config.json; `name` is for users: "Mistral".
    """

    model_types: Sequence[str]
    architectures: Sequence[str]
    name: str

    def title(self, settings: Settings) -> str:
        """Returns the configuration's display name, such as "T5 1.1"."""
        return self.name

    def ties(self, settings: Settings) -> Mapping[str, str]:
        """Maps tensors that may be copies, outside of the table, to their originals."""
        return {}

    def notes(self, settings: Settings) -> Sequence[str]:
        """Returns differences from transformers, for the user."""
        return []

    def module_of(self, tensor: str, settings: Settings) -> str:
        """Returns transformers' module of a kernel."""
        return tensor.removesuffix(".weight")

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """Returns a matching configuration for a model of ours, or None."""
        return None

    @abc.abstractmethod
    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        """Returns the processors in the order of the gin file."""

    @abc.abstractmethod
    def write_gin(self, settings: Settings, file: GinFile) -> None:
        """Adds model and data; processors add the vocabulary or the size of images.

        Raises ConversionError for unsupported settings.
        """

    @abc.abstractmethod
    def table(self, settings: Settings) -> TensorTable:
        """Returns the table of the folder's tensors and our variables."""


class TextFamily(Family):
    """Models of text. `pad_id` pads rows: 0, or -1 if id 0 is a token."""

    pad_id: ClassVar[int] = 0

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        tokenizer = read_tokenizer(folder, settings, self.pad_id)
        return [tokenizer, read_generation(folder, settings, tokenizer.end_id)]


def write_text_data(file: GinFile, example: str) -> None:
    """Adds `write_training_texts` and transformers' beam search."""
    write_training_texts(file, example)
    file.bind("decoding.Search", {"as_transformers": True})


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


def write_window(
    windows: Sequence[int | None], file: GinFile, parameters: Mapping[str, object]
) -> None:
    """Adds the window and further parameters of local layers, if any."""
    window = next(filter(None, windows), None)
    if window is not None:
        heads = reference("@transformer.AttentionHeads()")
        rate = reference("%ATTENTION_DROPOUT_RATE")
        file.bind(LOCAL, {"window": window, "heads": heads, **parameters, "dropout_rate": rate})


def sliding_window(settings: Settings, default: int | None) -> int | None:
    if "sliding_window" not in settings.values:
        return default
    return settings.optional_integer("sliding_window")


def used_window(settings: Settings, default: int | None = 4096) -> int | None:
    """Returns the window if `use_sliding_window` is set."""
    is_local = settings.flag("use_sliding_window", default=False)
    return sliding_window(settings, default) if is_local else None


def windows_by_rule(
    settings: Settings, window: int | None, has_window: Callable[[int], bool]
) -> list[int | None]:
    """Returns the window of each layer by "layer_types", or else by `has_window`."""
    number = settings.count("num_hidden_layers")
    if window is None:
        return [None] * number
    kinds = settings.values.get("layer_types")
    if kinds is None:
        return [window if has_window(layer) else None for layer in range(number)]
    if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise settings.error("layer_types", f"must be a list of {FULL} and {SLIDING}")
    if len(kinds) != number:
        raise settings.error("layer_types", f"must have {number} entries")
    return [window if kind == SLIDING else None for kind in kinds]


def windows_in_turn(settings: Settings, every: int) -> list[int | None]:
    """Returns the window of each layer by "layer_types", or else of all but each `every`th."""

    def has_window(layer: int) -> bool:
        return (layer + 1) % settings.integer("sliding_window_pattern", every) != 0

    return windows_by_rule(settings, sliding_window(settings, 4096), has_window)


def _class(name: str) -> type:
    cls: type = load_published()[name.rpartition("/")[2]]
    return cls


def write_sizes(
    settings: Settings, file: GinFile, width: int, d_ff: int, heads: tuple[str, int | None]
) -> None:
    """Adds the sizes of a stack; `heads`: the setting of their number, and its default."""
    num_heads = settings.integer(*heads)
    if width % num_heads:
        raise settings.error(heads[0], f"must divide {width}, the size of all heads")
    file.macro("D_MODEL", width)
    file.macro("D_FF", d_ff)
    file.macro("NUM_HEADS", num_heads)
    file.macro("D_KV", width // num_heads)


def write_row_length(max_positions: int, file: GinFile) -> None:
    comment = f"the model is made for up to {max_positions}" if max_positions > _LONGEST else ""
    file.macro("SEQUENCE_LENGTH", min(max_positions, _LONGEST), comment)
