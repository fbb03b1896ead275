from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.data import INPUTS, TARGETS, TextData
from mtfrun.display import pictures
from mtfrun.display.formats import mark_blanks
from mtfrun.errors.checks import COUNT, INDEX, check_fields
from mtfrun.experiment.evaluation.evaluation import EvaluationContext, EvaluationResult, Evaluator
from mtfrun.experiment.records import require
from mtfrun.extras.monitoring.attention_maps import attention_maps
from mtfrun.layers import Recorded, Recorder
from mtfrun.models.transformer import SequenceCall, TokenModel

_START = "<s>"  # the input of a decoder's first position
_ENCODER = "encoder_stack/"
_NO_MAPS = (
    "There are no maps of attention: the weights are never all computed at once. Attention runs in "
    "blocks (`block_length` below the length), or `length` is split over devices."
)


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
        encoder, whose tokens attend to later ones too, is a part of the whole.
      num_heads: heads of every layer whose attention is drawn.
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

    @functools.cached_property
    def _program(self) -> Callable[[Mapping[str, mtf.Tensor]], Recorded]:
        model = require(self.experiment.model, TokenModel, "LayerPictures", "")

        def record(features: Mapping[str, mtf.Tensor]) -> Recorded:
            recorder = Recorder()
            model.logits(features, SequenceCall(recorder=recorder))
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
                of_tokens = experts.reshape(self._arrays[feature].shape)
                rows[pictures.layer_name(path)] = of_tokens[0, :count]
        return {
            f"experts_of_tokens/{tag}".removesuffix("/targets"): pictures.token_experts(
                self._tokens(tag.split("/")[1], self.num_tokens), of_layers, number
            )
            for (tag, number), of_layers in levels.items()
        }

    def _choose_layers(self, paths: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yields the feature whose tokens a layer reads, inputs in an encoder, and its path."""
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
        model = require(self.experiment.model, TokenModel, "LayerPictures", "")
        if name == TARGETS and model.predicts_first_id:
            # A decoder reads the id before the one that it predicts.
            texts = [_START, *texts[:-1]]
            positions = self._arrays.get("targets_position")
            for i in np.flatnonzero(positions[0, : len(ids)] == 0) if positions is not None else []:
                texts[i] = _START
        return texts[: self.num_tokens][: self.num_attending if count is None else count]
