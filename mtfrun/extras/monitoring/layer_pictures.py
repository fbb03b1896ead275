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

# Bounds of the pixels of a cell.
_LEAST_CELL, _MOST_CELL = 8, 24
# Pixels of a map's title, of the space between two maps, of the margin, and of the legend.
_TITLE, _GAP, _MARGIN, _LEGEND = 17, 8, 6, 24
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

    rows, columns = ([shorten(token, _MOST_TOKEN) for token in x] for x in (queries, keys))
    # A character of a label is at most 6 pixels wide.
    left, bottom = (6 * max(map(len, names)) + 8 for names in (rows, columns))
    free = WIDTH - left - _MARGIN + _GAP
    maps_in_row = min(max(1, int(free // (_LEAST_CELL * len(keys) + _GAP))), len(weights))
    map_rows = -(-len(weights) // maps_in_row)
    rows, columns = ([plain(name) for name in names] for names in (rows, columns))
    cell = (free / maps_in_row - _GAP) / len(keys)
    if map_rows == 1:
        cell = min(cell, (HEIGHT - _LEGEND - _TITLE - bottom) / len(queries))
    cell = min(max(cell, _LEAST_CELL), _MOST_CELL)
    width, height = round(cell * len(keys)), round(cell * len(queries))
    map_height = _TITLE + height + bottom
    total_width = max(left + maps_in_row * (width + _GAP) - _GAP + _MARGIN, WIDTH)
    canvas = Canvas(total_width, map_height * map_rows + _LEGEND)
    for i, (head, head_weights) in enumerate(weights.items()):
        row, column = divmod(i, maps_in_row)
        x, y = left + column * (width + _GAP), row * map_height + _TITLE
        axes = canvas.axes(x, y, width, height)
        image = axes.imshow(
            head_weights, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0.0, 1.0), aspect="auto"
        )
        axes.set_title(plain(head), fontsize=points(11), color=TEXT, loc="left", pad=3)
        axes.set_xticks(range(len(columns)), columns, rotation=90, family=MONO)
        axes.set_yticks(range(len(rows)), rows if column == 0 else [], family=MONO)
        axes.tick_params(labelsize=points(min(10, cell)), colors=TEXT, length=1, pad=2)
    top = map_height * map_rows
    canvas.text(_MARGIN, top + 0.55 * _LEGEND, "a row attends to a column:", 11)
    scale = canvas.axes(175, top + 2, WIDTH - 175 - 2 * _MARGIN - 4, 8)
    bar = canvas.figure.colorbar(
        image, cax=scale, orientation="horizontal", ticks=[0.0, 0.1, 0.5, 1.0]
    )
    bar.ax.tick_params(labelsize=points(10), colors=TEXT, length=2, pad=1)
    return canvas.pixels()


_EDGE, _LEGEND_TOP = 10, 4
# Pixels of a character, the least width of a box, its height, and the height of a number below it.
_CHARACTER, _LEAST_BOX, _BOX, _NUMBER = 7.2, 17, 17, 12
_SPACE, _LAYER_TITLE = 2, 18
# Experts in a line of the legend, and where it begins.
_LEGEND_COLUMNS, _LEGEND_LEFT, _LEGEND_LINE = 8, 78, 18


def token_experts(
    tokens: Sequence[str], experts: Mapping[str, np.ndarray], num_experts: int
) -> np.ndarray:
    """Returns a picture uint8 [height, width, 3]: for each layer, tokens in their experts' colours.

    `experts` has, by layer, the index [tokens] of each token's first expert; -1 is white.
    """
    boxes = list(_boxes(tokens))
    lines = boxes[-1][1] + 1 if boxes else 0
    has_numbers = num_experts > len(PALETTE)
    line_height = _BOX + _SPACE + _NUMBER * has_numbers
    layer_height = _LAYER_TITLE + lines * line_height
    legend_rows = -(-num_experts // _LEGEND_COLUMNS)
    colours = _colours(num_experts)
    height = _LEGEND_TOP + legend_rows * _LEGEND_LINE + len(experts) * layer_height + _SPACE
    canvas = Canvas(WIDTH, height)
    canvas.text(_EDGE, _LEGEND_TOP + 11, "first expert", 11)
    step = (WIDTH - _LEGEND_LEFT - _EDGE) / _LEGEND_COLUMNS
    for expert in range(num_experts):
        x = _LEGEND_LEFT + expert % _LEGEND_COLUMNS * step
        y = _LEGEND_TOP + expert // _LEGEND_COLUMNS * _LEGEND_LINE
        canvas.box(x, y, 14, 14, colours[expert])
        canvas.text(x + 18, y + 11, str(expert), 11)
    top = _LEGEND_TOP + legend_rows * _LEGEND_LINE
    for layer, indices in experts.items():
        canvas.text(_EDGE, top + 13, layer, bold=True)
        top += _LAYER_TITLE
        for (x, line, width), token, expert in zip(boxes, tokens, indices.tolist(), strict=True):
            y = top + line * line_height
            canvas.box(x, y, width, _BOX, colours[expert] if expert >= 0 else "white")
            middle = x + width / 2
            red, green, blue = (int(colours[expert][i : i + 2], 16) for i in (1, 3, 5))
            is_light = expert < 0 or 0.299 * red + 0.587 * green + 0.114 * blue > 130
            colour = "black" if is_light else "white"
            canvas.text(middle, y + 13, token, centred=True, colour=colour, family=MONO)
            if has_numbers:
                number = str(expert) if expert >= 0 else "-"
                canvas.text(middle, y + _BOX + 10, number, 9, centred=True)
        top += lines * line_height
    return canvas.pixels()


def _boxes(tokens: Sequence[str]) -> Iterator[tuple[float, int, float]]:
    x, line = float(_EDGE), 0
    for token in tokens:
        width = min(max(_LEAST_BOX, _CHARACTER * len(token) + 4), WIDTH - 2 * _EDGE)
        if x + width > WIDTH - _EDGE:
            x, line = float(_EDGE), line + 1
        yield x, line, width
        x += width + _SPACE


def _colours(number: int) -> Sequence[str]:
    """Many colours are hard to tell apart."""
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import to_hex  # noqa: PLC0415

    if number <= len(PALETTE):
        return PALETTE
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.0, 1.0, number))]
