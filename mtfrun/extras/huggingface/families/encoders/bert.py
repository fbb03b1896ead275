"""BERT and its kin: encoders of masked text and classifiers. Devlin et al. 2018, arXiv:1810.04805.

RoBERTa: Liu et al. 2019, arXiv:1907.11692; XLM-RoBERTa: Conneau et al. 2019, arXiv:1911.02116;
CamemBERT: Martin et al. 2019, arXiv:1911.03894; DistilBERT: Sanh et al. 2019, arXiv:1910.01108.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoders.tasks import (
    DATA,
    MASKED,
    SPANS,
    TEXTS,
    WORDS,
    Head,
    has_label_sets,
    is_headless,
    is_regressor,
    task_of,
)
from mtfrun.extras.huggingface.family import (
    LAYERS,
    Blocks,
    Processor,
    TextFamily,
    classes,
    names_of_labels,
    write_row_length,
    write_sizes,
    write_text_data,
)
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    attention_rows,
    dense_rows,
    feed_forward_rows,
    norm_rows,
)
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer

_DROPOUT = "head/transformer.SublayerDropout"
# As in extras/huggingface/models/bert.gin.
_USUAL = "@mtf.exact_gelu"
# As in extras/huggingface/models/roberta.gin.
_ROBERTA_OFFSET = 2
# Candidates for the separator of a text's labels.
_SEPARATORS = ",;|"


class Bert(TextFamily):
    """`width` to `rates` are names of settings, `prefix` to `norms` names of tensors.

    `positions` and `last_norm` may be "". `spans` is the head for answers, `tokens` for word
    labels. `kept` are tensors of other heads, and buffers of older files.
    """

    shipped_file: ClassVar[str] = "extras/huggingface/models/bert.gin"
    width: ClassVar[str] = "hidden_size"
    num_layers: ClassVar[str] = "num_hidden_layers"
    num_heads: ClassVar[str] = "num_attention_heads"
    d_ff: ClassVar[str] = "intermediate_size"
    activation: ClassVar[str] = "hidden_act"
    rates: ClassVar[Sequence[str]] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    epsilon: ClassVar[float] = 1e-12
    usual_padding: ClassVar[int] = 0
    num_types: ClassVar[int] = 2
    prefix: ClassVar[str] = "bert"
    words: ClassVar[str] = "embeddings.word_embeddings.weight"
    positions: ClassVar[str] = "embeddings.position_embeddings.weight"
    first_norm: ClassVar[str] = "embeddings.LayerNorm"
    last_norm: ClassVar[str] = ""
    layers: ClassVar[str] = "encoder.layer"
    attention: ClassVar[Sequence[str]] = (
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
    )
    maps: ClassVar[Sequence[str]] = ("intermediate.dense", "output.dense")
    norms: ClassVar[Sequence[str]] = ("attention.output.LayerNorm", "output.LayerNorm")
    masked: ClassVar[Head] = Head(
        *("cls.predictions.decoder", "cls.predictions.transform.dense"),
        *("cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    )
    classifier: ClassVar[Head] = Head("classifier", "bert.pooler.dense")
    spans: ClassVar[Head] = Head("qa_outputs")
    spans_rate: ClassVar[tuple[str, float] | None] = None
    tokens: ClassVar[Head] = Head("classifier")
    classifier_activation: ClassVar[str] = "tanh"
    has_head_bias: ClassVar[bool] = True
    has_bias: ClassVar[Flag] = True
    map_bias: ClassVar[Flag] = True
    is_gated: ClassVar[bool] = False
    kept: ClassVar[Sequence[str]] = (r"cls\.seq_relationship\..*",)

    def ties(self, settings: Settings) -> Mapping[str, str]:
        if self.num_labels(settings) or is_headless(settings):
            return {}
        head = self.masked
        ties = {f"{head.softmax}.bias": head.bias}
        if settings.flag("tie_word_embeddings", default=True):
            ties[f"{head.softmax}.weight"] = f"{self.start(settings)}{self.words}"
        return {name: original for name, original in ties.items() if name != original}

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        tokenizer = read_tokenizer(folder, settings, self.padding_id(settings), is_encoder=True)
        return [tokenizer if self.num_labels(settings) else tokenizer.with_mask(settings)]

    def padding_id(self, settings: Settings) -> int:
        """Returns 0, or -1 if 0 is a token, as RoBERTa's "<s>"."""
        return 0 if settings.non_negative("pad_token_id", self.usual_padding) == 0 else -1

    def start(self, settings: Settings) -> str:
        """Returns the prefix of tensor names, "bert.", or "" in folders without a head."""
        return "" if self.words in settings.tensors else f"{self.prefix}."

    def offset(self, settings: Settings) -> int:
        """Returns the row of the first position."""
        return 0

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        for name in ("is_decoder", "add_cross_attention"):
            settings.require(name, *(False,))
        settings.require("position_embedding_type", "absolute")
        task = task_of(settings)
        file.include(self.shipped_file, DATA[task])
        if is_regressor(settings):
            file.include("extras/text_tasks/data/text_regression.gin")
        elif has_label_sets(settings):
            file.include("extras/text_tasks/data/text_multi_label.gin")
        if task in (SPANS, WORDS):
            file.bind("decoding.Search", {"as_transformers": True})
        else:
            example = "tsv_pairs" if task == TEXTS else "text_files"
            write_text_data(file, f"data/{example}.gin")
        file.gap()
        width, d_ff = settings.integer(self.width), settings.integer(self.d_ff)
        write_sizes(settings, file, width, d_ff, (self.num_heads, None))
        self.write_stack(settings, file)
        if is_headless(settings):  # logits are products with the embeddings
            file.bind("transformer.EncoderOnly", {"head": []})
            file.bind("transformer.TokenEmbedding", {"softmax_bias": False})
        else:
            self.write_head(settings, file)

    def write_stack(self, settings: Settings, file: GinFile) -> None:
        """Adds layers, positions, types and norms."""
        self.blocks(settings).write_gin(file, LAYERS)
        rate, attention_rate = (settings.number(name, 0.1) for name in self.rates)
        file.macro("DROPOUT_RATE", rate)
        if attention_rate != rate:
            file.macro("ATTENTION_DROPOUT_RATE", attention_rate)
        positions = settings.integer("max_position_embeddings", 512) - self.offset(settings)
        if positions < 1:
            raise settings.error("max_position_embeddings", "has no position")
        write_row_length(positions, file)
        file.bind("transformer.TokenEmbedding", {"max_length": positions})
        file.macro("NORM_EPSILON", settings.number("layer_norm_eps", self.epsilon))
        if self.num_types:
            file.macro("NUM_TYPES", settings.integer("type_vocab_size", self.num_types))
        if str(self.function(settings)) != _USUAL:
            file.bind("transformer.FeedForward", {"activation": self.function(settings)})

    def write_head(self, settings: Settings, file: GinFile) -> None:
        task, head = task_of(settings), self.write_head_transforms(settings, file)
        if task == SPANS:
            self.write_spans(settings, file, head)
        elif task == MASKED:
            self.write_softmax(settings, file)
        else:
            self.write_labels(settings, file, head)

    def write_head_transforms(self, settings: Settings, file: GinFile) -> list[str]:
        """Adds parameters of the head's transforms; returns those before its dropout."""
        task, dense = task_of(settings), "transformer.DenseTransform"
        if task == TEXTS:
            usual = self.classifier_activation
            function = settings.activation_of("classifier_activation", usual)
            file.bind(dense, {"activation": function})
            return [dense]
        if task == MASKED and str(self.masked_function(settings)) != _USUAL:
            file.bind(dense, {"activation": self.masked_function(settings)})
        return []

    def write_softmax(self, settings: Settings, file: GinFile) -> None:
        if not self.is_tied(settings):
            file.bind("transformer.TokenEmbedding", {"tied_softmax": False})

    def write_labels(self, settings: Settings, file: GinFile, head: Sequence[str]) -> None:
        """Adds the labels of a classifier, and its head, which ends with dropout."""
        transforms = {"head": classes(*head, _DROPOUT)}
        has_sets = has_label_sets(settings)
        if is_regressor(settings) or has_sets:
            model = "MultiLabelClassifier" if has_sets else "TextRegressor"
            file.bind(f"text_tasks.{model}", {**transforms, **self.types()})
        else:
            settings.require("problem_type", "single_label_classification")
            file.bind("transformer.EncoderOnly", transforms)
        name = self.head_of(settings).rate
        is_set = settings.values.get(name) is not None
        rate = settings.number(name) if is_set else reference("%DROPOUT_RATE")
        file.bind(_DROPOUT, {"rate": rate})
        if is_regressor(settings):
            return
        labels = names_of_labels(settings)
        file.macro("LABELS", labels)
        if not has_sets:
            file.bind("text_tasks.LabelVocabulary", {"own_softmax": True})
            return
        free = [x for x in _SEPARATORS if not any(x in label for label in labels)]
        if not free or any(label != label.strip() or not label for label in labels):
            raise settings.error("id2label", f"needs names without spaces around, or {_SEPARATORS}")
        if free[0] != _SEPARATORS[0]:
            file.bind("text_tasks.LabelSetVocabulary", {"separator": free[0]})

    def write_spans(self, settings: Settings, file: GinFile, head: Sequence[str]) -> None:
        """Adds the head for answers, which ends with dropout in some models."""
        values: dict[str, object] = self.types()
        if self.spans_rate is not None:
            file.bind(_DROPOUT, {"rate": settings.number(*self.spans_rate)})
            values["head"] = classes(*head, _DROPOUT)
        if values:
            file.bind("text_tasks.SpanLabeler", values)

    def types(self) -> dict[str, object]:
        """Returns the parameter of models with token types."""
        return {"num_types": reference("%NUM_TYPES")} if self.num_types else {}

    def function(self, settings: Settings) -> Reference:
        """Returns the activation of feed-forward layers."""
        return settings.activation(self.activation, "gelu")

    def masked_function(self, settings: Settings) -> Reference:
        """Returns the activation of the head for masked text."""
        return self.function(settings)

    def table(self, settings: Settings) -> TensorTable:
        start, blocks = self.start(settings), self.blocks(settings)
        words = VocabularyRows(settings.integer("vocab_size"))
        rows = [Row(f"{start}{self.words}", "embedding/table", words)]
        if self.positions:
            rows.append(Row(f"{start}{self.positions}", "position/table", Same()))
        if self.num_types:
            types = f"{start}embeddings.token_type_embeddings.weight"
            rows.append(Row(types, "types/table", Same()))
        rows += self.norm(settings, f"{start}{self.first_norm}", "encoder_stack/norm")
        for layer in range(len(blocks.layers)):
            rows += self.layer(settings, f"{start}{self.layers}.{layer}", blocks.paths(layer))
        if self.last_norm:
            rows += self.norm(settings, f"{start}{self.last_norm}", "encoder_stack/final_norm")
        return TensorTable([*rows, *self.head(settings)], [*self.kept, *self._unused(settings)])

    def layer(self, settings: Settings, theirs: str, paths: Sequence[str]) -> Iterator[Row]:
        """Yields the tensors of the layer "bert.encoder.layer.0"."""
        attention, maps = (
            [f"{theirs}.{x}" for x in names] for names in (self.attention, self.maps)
        )
        has_bias, map_bias = settings.is_set(self.has_bias), settings.is_set(self.map_bias)
        yield from attention_rows(
            attention, f"{paths[0]}/layer/attention", use_bias=has_bias, use_output_bias=has_bias
        )
        yield from feed_forward_rows(
            maps, f"{paths[1]}/layer", is_gated=self.is_gated, has_bias=map_bias
        )
        for their_name, path in zip(self.norms, paths, strict=True):
            yield from self.norm(settings, f"{theirs}.{their_name}", f"{path}/norm")

    def head(self, settings: Settings) -> Iterator[Row]:
        if is_headless(settings):
            return
        num_labels, head = self.num_labels(settings), self.head_of(settings)
        size = num_labels or settings.integer("vocab_size")
        has_bias = settings.flag("classifier_bias", default=self.has_head_bias)
        if head.dense is not None:
            yield from dense_rows(head.dense, "head_dense", has_bias=has_bias)
        if head.norm is not None:
            yield from self.norm(settings, head.norm, "head_norm")
        if num_labels or not self.is_tied(settings):
            kernel = VocabularyRows(size, transposed=True)
            yield Row(f"{head.softmax}.weight", "softmax/kernel", kernel)
        if num_labels or settings.flag("decoder_bias", default=True):
            bias = f"{head.softmax}.bias" if self._has_two_biases(settings) else head.bias
            yield Row(bias, "softmax/bias", VocabularyRows(size))

    def norm(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields a layer norm; early files have TensorFlow's names."""
        if f"{theirs}.gamma" not in settings.tensors:
            yield from norm_rows(theirs, ours)
        else:
            yield Row(f"{theirs}.gamma", f"{ours}/scale", Same())
            yield Row(f"{theirs}.beta", f"{ours}/bias", Same())

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count(self.num_layers), "encoder_stack")

    def num_labels(self, settings: Settings) -> int:
        """Returns the number of labels; 0 for masked language models."""
        task = task_of(settings)
        if task == SPANS:
            settings.require("num_labels", 2)
            return 2
        return 0 if task == MASKED else len(names_of_labels(settings))

    def is_tied(self, settings: Settings) -> bool:
        name = f"{self.masked.softmax}.weight"
        return settings.flag("tie_word_embeddings", default=True) and name not in settings.tensors

    def _has_two_biases(self, settings: Settings) -> bool:
        """Whether the softmax has a separate bias, which makes the head's unused."""
        bias = f"{self.masked.softmax}.bias"
        return bias != self.masked.bias and bias in settings.tensors

    def head_of(self, settings: Settings) -> Head:
        heads = {MASKED: self.masked, TEXTS: self.classifier, WORDS: self.tokens, SPANS: self.spans}
        return heads[task_of(settings)]

    def _unused(self, settings: Settings) -> list[str]:
        """Many folders have a pretrained pooler that their head does not use."""
        head, start = self.head_of(settings), self.start(settings)
        unused = [rf"{re.escape(start)}embeddings\.position_ids"]
        if head.dense != f"{start}pooler.dense":
            unused.append(rf"{re.escape(start)}pooler\..*")
        if not self.num_labels(settings) and self._has_two_biases(settings):
            unused.append(re.escape(head.bias))
        return unused


class Roberta(Bert):
    """BERT under other names, with positions offset by the padding id, 1.

    XLM-RoBERTa and CamemBERT differ only in their vocabularies.
    """

    shipped_file = "extras/huggingface/models/roberta.gin"
    usual_padding = 1
    prefix = "roberta"
    masked = Head("lm_head.decoder", "lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    classifier = Head("classifier.out_proj", "classifier.dense")
    kept = ()

    def title(self, settings: Settings) -> str:
        names = {"xlm-roberta": "XLM-RoBERTa", "camembert": "CamemBERT"}
        return names.get(settings.text("model_type"), self.name)

    def offset(self, settings: Settings) -> int:
        return settings.non_negative("pad_token_id", self.usual_padding) + 1

    def write_stack(self, settings: Settings, file: GinFile) -> None:
        super().write_stack(settings, file)
        if self.offset(settings) != _ROBERTA_OFFSET:
            file.bind("transformer.PositionalEmbedding", {"offset": self.offset(settings)})

    def write_head(self, settings: Settings, file: GinFile) -> None:
        super().write_head(settings, file)
        if task_of(settings) == SPANS:
            file.macro("SEPARATORS", 2)

    def masked_function(self, settings: Settings) -> Reference:
        return reference(_USUAL)


class DistilBert(Bert):
    """BERT with fewer layers, under other names, without token types."""

    shipped_file = "extras/huggingface/models/distilbert.gin"
    width = "dim"
    num_layers = "n_layers"
    num_heads = "n_heads"
    d_ff = "hidden_dim"
    activation = "activation"
    rates = ("dropout", "attention_dropout")
    num_types = 0
    prefix = "distilbert"
    layers = "transformer.layer"
    attention = (*("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),)
    maps = ("ffn.lin1", "ffn.lin2")
    norms = ("sa_layer_norm", "output_layer_norm")
    masked = Head("vocab_projector", "vocab_transform", "vocab_layer_norm")
    classifier = Head("classifier", "pre_classifier", rate="seq_classif_dropout")
    tokens = Head("classifier", rate="dropout")
    spans_rate = ("qa_dropout", 0.1)
    classifier_activation = "relu"
    kept = ()
