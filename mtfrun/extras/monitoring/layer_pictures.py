from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS, TextData
from mtfrun.display import pictures
from mtfrun.display.formats import mark_blanks
from mtfrun.display.pictures.canvas import (
    HEIGHT,
    MONO,
    PALETTE,
    SEQUENTIAL,
    TEXT,
    WIDTH,
    Canvas,
    plain,
    points,
    shorten,
)
from mtfrun.errors.checks import COUNT, INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import require
from mtfrun.layers import Recorded, Recorder
from mtfrun.models.transformer import SequenceCall, TokenModel

_START = "<s>"  # the input of a decoder's first position
_ENCODER = "encoder_stack/"
_NO_MAPS = (
    "There are no maps of attention: the weights are never all computed at once. Attention runs in "
    "blocks (`block_length` below the length), or `length` is split over devices."
)

# Pixels of the smallest cell, of the space between two maps, of a map's title, and of the legend.
_LEAST_CELL, _GAP, _TITLE, _LEGEND = 8, 8, 17, 24
_MOST_TOKEN = 8


@dataclasses.dataclass(frozen=True)
class LayerPictures(Evaluator):
    """Pictures of a Transformer's work on the first text of a split.

    For each layer: its attention weights and, of mixtures, the first expert of each token. It needs
    another program. It reads the beginning of one text, or, where tokens compete for the slots of
    experts, a batch as an evaluation does.

    Attributes:
      num_tokens: number of tokens at the text's beginning; 0 for no pictures.
      batch_size: rows of that batch.
      num_attending: how many of these tokens a map of attention has, 0 for no maps; the map of an
        encoder, where tokens also attend to later ones, is a part of the whole.
      num_heads: heads of every layer that are drawn.
      layers: indices of the layers, negative ones from the end.
    """

    num_tokens: int = 0
    batch_size: int = 1
    num_attending: int = 16
    num_heads: int = 2
    layers: Sequence[int] = (0, -1)

    def __post_init__(self) -> None:
        check_fields(self, INDEX, "num_tokens", "num_attending")
        check_fields(self, COUNT, "batch_size", "num_heads")
        if self.num_tokens:
            remedy = "set LayerPictures.num_tokens to 0"
            require(self.experiment.data, TextData, "LayerPictures", remedy)
            require(self.experiment.model, TokenModel, "LayerPictures", remedy)

    def __call__(self, context: EvaluationContext) -> EvaluationResult:
        if not self.num_tokens or not context.is_shown:
            return EvaluationResult()
        recorded = mtf.to_numpy(self._program(self._features))
        images = {**self._attention(recorded), **self._experts(recorded)}
        has_maps = recorded.self_attention or recorded.memory_attention
        return EvaluationResult(images=images, texts={} if has_maps else {"attention": _NO_MAPS})

    @property
    def _model(self) -> TokenModel:
        return cast(TokenModel, self.experiment.model)

    @functools.cached_property
    def _program(self) -> Callable[[Mapping[str, mtf.Tensor]], Recorded]:
        def record(features: Mapping[str, mtf.Tensor]) -> Recorded:
            recorder = Recorder()
            self._model.logits(features, SequenceCall(recorder=recorder))
            return recorder.contents

        return mtf.function(record)

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """Features [rows, length] that are read, the text in the first row."""
        has_experts = any(name.endswith("/load") for name in self.experiment.model.metric_shapes)
        rows = self.experiment.rows_for(self.batch_size if has_experts else 1)
        length = None if has_experts else self.num_tokens
        data = next(iter(self.experiment.data.by_task().values()))
        batch = next(iter(data.evaluation(rows, split=self.split)))
        names = self.experiment.feature_shapes(rows).keys() & batch.keys()
        return {name: np.asarray(batch[name])[:, :length] for name in sorted(names)}

    @functools.cached_property
    def _features(self) -> dict[str, mtf.Tensor]:
        mesh, features = self.experiment.mesh, {}
        for name, x in self._arrays.items():
            *batch, length = self.experiment.feature_shapes(len(x))[name]
            shape = mtf.Shape([*batch, mtf.Dimension(length.name, x.shape[1])])
            features[name] = mtf.import_tf_tensor(mesh, x.reshape(shape.to_integer_list), shape)
        return features

    def _attention(self, recorded: Any) -> dict[str, np.ndarray]:
        """Returns pictures by tag; `recorded` is a `Recorded` of arrays."""
        images: dict[str, np.ndarray] = {}
        if not self.num_attending:
            return images
        for tag, weights in (
            ("attention", recorded.self_attention),
            ("attention_to_encoder", recorded.memory_attention),
        ):
            for feature, path in self._choose_layers(weights):
                queries = self._tokens(feature)
                keys = queries if tag == "attention" else self._tokens(INPUTS)
                # Of the first text, {heads, queries, keys}.
                first = weights[path].reshape(-1, *weights[path].shape[-2:])[: self.num_heads]
                heads = {f"head {i}": x[: len(queries), : len(keys)] for i, x in enumerate(first)}
                name = f"{tag}/{pictures.layer_name(path)}".replace(" ", "_")
                images[name] = attention_maps(heads, queries, keys)
        return images

    def _experts(self, recorded: Any) -> dict[str, np.ndarray]:
        levels: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for feature, path in self._choose_layers(recorded.experts):
            count = len(self._tokens(feature, self.num_tokens))
            for level, experts in recorded.experts[path].items():
                shape = self.experiment.model.metric_shapes[f"{path}/{level}/load"]
                rows = levels.setdefault((f"{level}/{feature}", shape.size), {})
                first_experts = experts.reshape(self._arrays[feature].shape)
                rows[pictures.layer_name(path)] = first_experts[0, :count]
        return {
            f"experts_of_tokens/{tag}".removesuffix("/targets"): token_experts(
                self._tokens(tag.split("/")[1], self.num_tokens), layers, number
            )
            for (tag, number), layers in levels.items()
        }

    def _choose_layers(self, paths: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yields the feature that a layer reads (inputs in an encoder) and its path."""
        for feature in (INPUTS, TARGETS):
            stack = [x for x in paths if x.startswith(_ENCODER) == (feature == INPUTS)]
            numbers = {i % len(stack) for i in self.layers if -len(stack) <= i < len(stack)}
            yield from ((feature, stack[i]) for i in sorted(numbers))

    def _tokens(self, name: str, count: int | None = None) -> list[str]:
        ids = self._arrays[name][0].tolist()
        # Without the padding behind the text.
        ids = ids[: 1 + max(np.flatnonzero(ids), default=0)]
        vocabulary = self.experiment.data.vocabularies[name]
        texts = [mark_blanks(vocabulary.token_text(abs(i))) for i in ids]
        if name == TARGETS and self._model.predicts_first_id:
            # A decoder reads the id before the one that it predicts.
            texts = [_START, *texts[:-1]]
            positions = self._arrays.get("targets_position", np.ones([1, len(ids)]))
            for i in np.flatnonzero(positions[0, : len(ids)] == 0):
                texts[i] = _START
        return texts[: self.num_tokens][: self.num_attending if count is None else count]


def attention_maps(
    weights: Mapping[str, np.ndarray], queries: Sequence[str], keys: Sequence[str]
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3] of weights [queries, keys] for every head."""
    from matplotlib.colors import PowerNorm  # noqa: PLC0415  small weights stay visible

    rows, columns = ([plain(shorten(token, _MOST_TOKEN)) for token in x] for x in (queries, keys))
    # A character of a label is at most 6 pixels wide.
    left, bottom = (6 * max(map(len, names)) for names in (rows, columns))
    maps_in_row = max(1, int((WIDTH - left) // (_LEAST_CELL * len(keys) + _GAP)))
    maps_in_row = min(maps_in_row, len(weights))
    map_rows = -(-len(weights) // maps_in_row)
    width = max(WIDTH, left + maps_in_row * (_LEAST_CELL * len(keys) + _GAP))
    top = map_rows * max(HEIGHT - _LEGEND, _TITLE + bottom + _LEAST_CELL * len(queries))
    canvas = Canvas(width, top + _LEGEND)
    share = top / (top + _LEGEND)
    canvas.figure.set_layout_engine("compressed", rect=(0.0, 1.0 - share, 1.0, share))
    grid = canvas.figure.subplots(map_rows, maps_in_row, squeeze=False, sharey=True)
    for axes, (head, head_weights) in zip(grid.flat, weights.items(), strict=False):
        image = axes.imshow(head_weights, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0.0, 1.0))
        axes.set_title(plain(head), fontsize=points(11), color=TEXT, loc="left", pad=3)
        axes.set_xticks(range(len(columns)), columns, rotation=90, family=MONO)
        axes.set_yticks(range(len(rows)), rows, family=MONO)
        axes.tick_params(labelsize=points(9), colors=TEXT, length=1, pad=2)
    for axes in grid.flat[len(weights) :]:
        axes.set_axis_off()
    canvas.text(6, top + 0.55 * _LEGEND, "a row attends to a column:", 11)
    scale = canvas.axes(175, top + 2, WIDTH - 195, 8)
    ticks = [0.0, 0.1, 0.5, 1.0]
    bar = canvas.figure.colorbar(image, cax=scale, orientation="horizontal", ticks=ticks)
    bar.ax.tick_params(labelsize=points(10), colors=TEXT, length=2, pad=1)
    return canvas.pixels()


_EDGE, _TOP = 10, 4
# Pixels of a character, the least width of a box, its height, and the height of a number below it.
_CHARACTER, _LEAST_BOX, _BOX, _NUMBER = 7.2, 17, 17, 12
_SPACE, _LAYER_TITLE = 2, 18


def token_experts(
    tokens: Sequence[str], experts: Mapping[str, np.ndarray], num_experts: int
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3]: for each layer, tokens in their experts' colours.

    `experts` has, by layer, the index [tokens] of each token's first expert; -1 is white.
    """
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import to_hex, to_rgb  # noqa: PLC0415

    colours: Sequence[str] = PALETTE
    if num_experts > len(PALETTE):  # hard to tell apart: boxes have numbers
        colours = [to_hex(x) for x in colormaps["viridis"](np.linspace(0.0, 1.0, num_experts))]
    legend = ["first expert", *map(str, range(num_experts))]
    titles, boxes, top = [], [], _TOP
    for title, texts, indices in (
        ("", legend, np.arange(-1, num_experts)),
        *((layer, tokens, x) for layer, x in experts.items()),
    ):
        has_numbers = bool(title) and num_experts > len(PALETTE)
        titles.append((top + 13, title))
        top += _LAYER_TITLE * bool(title)
        line = 0
        for (x, line, width), text, expert in zip(
            _boxes(texts), texts, indices.tolist(), strict=True
        ):
            y = top + line * (_BOX + _SPACE + _NUMBER * has_numbers)
            number = (str(expert) if expert >= 0 else "-") * has_numbers
            boxes.append((x, y, width, text, colours[expert] if expert >= 0 else "white", number))
        top += (line + bool(texts)) * (_BOX + _SPACE + _NUMBER * has_numbers)
    canvas = Canvas(WIDTH, top + _SPACE)
    for y, title in titles:
        canvas.text(_EDGE, y, title, bold=True)
    for x, y, width, text, colour, number in boxes:
        canvas.box(x, y, width, _BOX, colour)
        is_light = np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) > 0.51
        ink = "black" if is_light else "white"
        canvas.text(x + width / 2, y + 13, text, centred=True, colour=ink, family=MONO)
        canvas.text(x + width / 2, y + _BOX + 10, number, 9, centred=True)
    return canvas.pixels()


def _boxes(tokens: Sequence[str]) -> Iterator[tuple[float, int, float]]:
    x, line = float(_EDGE), 0
    for token in tokens:
        width = min(max(_LEAST_BOX, _CHARACTER * len(token) + 4), WIDTH - 2 * _EDGE)
        if x + width > WIDTH - _EDGE:
            x, line = float(_EDGE), line + 1
        yield x, line, width
        x += width + _SPACE
