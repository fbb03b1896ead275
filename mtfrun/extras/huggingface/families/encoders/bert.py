"""BERT: encoders of masked text, and classifiers. Devlin et al. 2018, arXiv:1810.04805."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    LAYERS,
    Blocks,
    Processor,
    TextFamily,
    classes,
    names_of_labels,
)
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable, VocabularyRows
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer

_DROPOUT = "head/transformer.SublayerDropout"
# As in extras/huggingface/models/bert.gin.
USUAL = "@mtf.exact_gelu"
# Candidates for the separator of a text's labels.
_SEPARATORS = ",;|"


# The ends of classes of models: "BertForMaskedLM".
MASKED, TEXTS, WORDS = "MaskedLM", "SequenceClassification", "TokenClassification"
SPANS = "QuestionAnswering"
DATA = {
    MASKED: "data/masked_lm.gin",
    TEXTS: "extras/text_tasks/data/text_classification.gin",
    WORDS: "extras/text_tasks/data/token_classification.gin",
    SPANS: "extras/text_tasks/data/spans.gin",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """Names of the head's modules, and of its dropout setting.

    The bias is the softmax's unless `other_bias` is set.
    """

    softmax: str
    dense: str | None = None
    norm: str | None = None
    other_bias: str | None = None
    rate: str = "classifier_dropout"

    @property
    def bias(self) -> str:
        return self.other_bias or f"{self.softmax}.bias"


class Bert(TextFamily):
    """`width` to `rates` are names of settings, `prefix` to `norms` names of tensors.

    `positions` and `last_norm` may be ""; `offset` is the row of the first position. `spans` is the
    head for answers, `tokens` for word labels; if `masked_has_function`, the head for masked text
    has the activation of feed-forward layers. `kept` are tensors of other heads, and buffers of
    older files.
    """

    shipped_file = "extras/huggingface/models/bert.gin"
    width = "hidden_size"
    num_heads = "num_attention_heads"
    d_ff = "intermediate_size"
    activation = "hidden_act"
    rates: Sequence[str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    epsilon = 1e-12
    usual_padding = 0
    num_types = 2
    offset = 0
    prefix = "bert"
    words = "embeddings.word_embeddings.weight"
    positions = "embeddings.position_embeddings.weight"
    first_norm = "embeddings.LayerNorm"
    last_norm = ""
    layers = "encoder.layer"
    attention: Sequence[str] = (
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
    )
    maps: Sequence[str] = ("intermediate.dense", "output.dense")
    norms: Sequence[str] = ("attention.output.LayerNorm", "output.LayerNorm")
    masked = Head(
        *("cls.predictions.decoder", "cls.predictions.transform.dense"),
        *("cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    )
    classifier = Head("classifier", "bert.pooler.dense")
    spans = Head("qa_outputs")
    spans_rate: tuple[str, float] | None = None
    tokens = Head("classifier")
    classifier_activation = "tanh"
    has_head_bias = True
    masked_has_function = True
    has_bias: Flag = True
    map_bias: Flag = True
    is_gated = False
    kept: Sequence[str] = (r"cls\.seq_relationship\..*",)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        names = list(map(str, settings.values.get("architectures") or []))
        tasks = (task for task in (SPANS, WORDS, TEXTS) for x in names if x.endswith(f"For{task}"))
        self.task = next(tasks, MASKED)
        # `BertModel`; judged by its tensors if unnamed.
        is_unnamed = not names and any(x.startswith("embeddings.") for x in settings.tensors)
        self.is_headless = is_unnamed or any(x.endswith("Model") for x in names)
        # Names of models without a head have no prefix.
        self.missing = f"{self.prefix}." if self.words in settings.tensors else ""
        heads = {MASKED: self.masked, TEXTS: self.classifier, WORDS: self.tokens, SPANS: self.spans}
        self.used_head = heads[self.task]
        self.labels: Sequence[str] = []
        if self.task == SPANS:
            settings.require("num_labels", 2)
            self.labels = ["begin", "end"]
        elif self.task != MASKED:
            self.labels = names_of_labels(settings)
        # One label is a number by default, as in transformers.
        kinds = ("single_label_classification", "multi_label_classification", "regression")
        self.problem, is_number = "", len(self.labels) == 1
        if self.task == TEXTS:
            settings.require("problem_type", *kinds[: 3 if is_number else 2])
            self.problem = settings.text("problem_type", kinds[2 if is_number else 0])
        softmax = f"{self.masked.softmax}.weight"
        is_tied = settings.flag("tie_word_embeddings", default=True)
        self.is_tied = is_tied and softmax not in settings.tensors
        # The softmax may have a separate bias, which makes the head's unused.
        bias = f"{self.masked.softmax}.bias"
        self.has_two_biases = bias != self.masked.bias and bias in settings.tensors
        self.function = settings.activation(self.activation, "gelu")
        # The parameter of models with token types.
        self.types: dict[str, object] = {}
        if self.num_types:
            self.types["num_types"] = reference("%NUM_TYPES")
        self.blocks = self.make_blocks()

    @property
    def ties(self) -> Mapping[str, str]:
        if self.labels or self.is_headless:
            return {}
        head = self.masked
        ties = {f"{head.softmax}.bias": head.bias}
        if self.settings.flag("tie_word_embeddings", default=True):
            words = f"{self.prefix}.{self.words}".removeprefix(self.missing)
            ties[f"{head.softmax}.weight"] = words
        return {name: original for name, original in ties.items() if name != original}

    def processors(self, folder: Folder) -> Sequence[Processor]:
        # 0 may be a token, as RoBERTa's "<s>".
        is_usual = self.settings.non_negative("pad_token_id", self.usual_padding) == 0
        tokenizer = read_tokenizer(folder, self.settings, 0 if is_usual else -1, is_encoder=True)
        return [tokenizer if self.labels else tokenizer.with_mask(self.settings)]

    def write_gin(self, file: GinFile) -> None:
        settings = self.settings
        for name in ("is_decoder", "add_cross_attention"):
            settings.require(name, *(False,))
        settings.require("position_embedding_type", "absolute")
        file.include(self.shipped_file, DATA[self.task])
        more = {"regression": "regression", "multi_label_classification": "multi_label"}
        if self.problem in more:
            file.include(f"extras/text_tasks/data/text_{more[self.problem]}.gin")
        if self.task in (SPANS, WORDS):
            file.bind("decoding.Search", {"as_transformers": True})
        else:
            example = "tsv_pairs" if self.task == TEXTS else "text_files"
            self.write_text_data(file, f"data/{example}.gin")
        file.gap()
        self.write_sizes(file, (self.width,), (self.d_ff,), (self.num_heads,))
        self.write_stack(file)
        if self.is_headless:  # logits are products with the embeddings
            file.bind("transformer.EncoderOnly", {"head": []})
            file.bind("transformer.TokenEmbedding", {"softmax_bias": False})
        else:
            self.write_head(file)

    def write_stack(self, file: GinFile) -> None:
        """Adds layers, positions, types and norms."""
        settings = self.settings
        self.blocks.write_gin(file, LAYERS)
        rate, attention_rate = (settings.number(name, 0.1) for name in self.rates)
        file.macro("DROPOUT_RATE", rate)
        if attention_rate != rate:
            file.macro("ATTENTION_DROPOUT_RATE", attention_rate)
        positions = settings.integer("max_position_embeddings", 512) - self.offset
        if positions < 1:
            raise settings.error("max_position_embeddings", "has no position")
        self.write_row_length(file, positions)
        file.bind("transformer.TokenEmbedding", {"max_length": positions})
        file.macro("NORM_EPSILON", settings.number("layer_norm_eps", self.epsilon))
        if self.num_types:
            file.macro("NUM_TYPES", settings.integer("type_vocab_size", self.num_types))
        if str(self.function) != USUAL:
            file.bind("transformer.FeedForward", {"activation": self.function})

    def write_head(self, file: GinFile) -> None:
        head = self.write_head_transforms(file)
        if self.task == SPANS:
            self.write_spans(file, head)
        elif self.task == MASKED:
            self.write_softmax(file)
        else:
            self.write_labels(file, head)

    def write_head_transforms(self, file: GinFile) -> list[str]:
        """Adds parameters of the head's transforms; returns those before its dropout."""
        dense = "transformer.DenseTransform"
        if self.task == TEXTS:
            usual = self.classifier_activation
            function = self.settings.activation_of("classifier_activation", usual)
            file.bind(dense, {"activation": function})
            return [dense]
        if self.task == MASKED and self.masked_has_function and str(self.function) != USUAL:
            file.bind(dense, {"activation": self.function})
        return []

    def write_softmax(self, file: GinFile) -> None:
        if not self.is_tied:
            file.bind("transformer.TokenEmbedding", {"tied_softmax": False})

    def write_labels(self, file: GinFile, head: Sequence[str]) -> None:
        """Adds the labels of a classifier, and its head, which ends with dropout."""
        transforms = {"head": classes(*head, _DROPOUT)}
        models = {
            "regression": "TextRegressor",
            "multi_label_classification": "MultiLabelClassifier",
        }
        if self.problem in models:
            file.bind(f"text_tasks.{models[self.problem]}", {**transforms, **self.types})
        else:
            file.bind("transformer.EncoderOnly", transforms)
        name = self.used_head.rate
        is_set = self.settings.values.get(name) is not None
        rate = self.settings.number(name) if is_set else reference("%DROPOUT_RATE")
        file.bind(_DROPOUT, {"rate": rate})
        if self.problem == "regression":
            return
        file.macro("LABELS", self.labels)
        if self.problem != "multi_label_classification":
            file.bind("text_tasks.LabelVocabulary", {"own_softmax": True})
            return
        free = [x for x in _SEPARATORS if not any(x in label for label in self.labels)]
        if not free or any(label != label.strip() or not label for label in self.labels):
            problem = f"needs names without spaces around, or {_SEPARATORS}"
            raise self.settings.error("id2label", problem)
        if free[0] != _SEPARATORS[0]:
            file.bind("text_tasks.LabelSetVocabulary", {"separator": free[0]})

    def write_spans(self, file: GinFile, head: Sequence[str]) -> None:
        """Adds the head for answers, which ends with dropout in some models."""
        values = dict(self.types)
        if self.spans_rate is not None:
            file.bind(_DROPOUT, {"rate": self.settings.number(*self.spans_rate)})
            values["head"] = classes(*head, _DROPOUT)
        if values:
            file.bind("text_tasks.SpanLabeler", values)

    def table(self) -> TensorTable:
        table, start = TensorTable(self.missing), f"{self.prefix}."
        words = VocabularyRows(self.settings.integer("vocab_size"))
        table.add(f"{start}{self.words}", "embedding/table", words)
        if self.positions:
            table.add(f"{start}{self.positions}", "position/table")
        if self.num_types:
            table.add(f"{start}embeddings.token_type_embeddings.weight", "types/table")
        self.add_norm(table, f"{start}{self.first_norm}", "encoder_stack/norm")
        for layer in range(len(self.blocks.layers)):
            self.add_layer(table, f"{start}{self.layers}.{layer}", self.blocks.paths(layer))
        if self.last_norm:
            self.add_norm(table, f"{start}{self.last_norm}", "encoder_stack/final_norm")
        table.keep(*self.kept, rf"{re.escape(start)}embeddings\.position_ids")
        # Many folders have a pretrained pooler that their head does not use.
        if self.used_head.dense != f"{start}pooler.dense":
            table.keep(rf"{re.escape(start)}pooler\..*")
        if not self.labels and self.has_two_biases:
            table.keep(re.escape(self.masked.bias))
        if not self.is_headless:
            self.add_head(table, self.used_head)
        return table

    def add_layer(self, table: TensorTable, theirs: str, paths: Sequence[str]) -> None:
        """Adds the tensors of the layer "bert.encoder.layer.0"."""
        attention, maps = (
            [f"{theirs}.{x}" for x in names] for names in (self.attention, self.maps)
        )
        has_bias, map_bias = map(self.settings.is_set, (self.has_bias, self.map_bias))
        table.attention(attention, f"{paths[0]}/layer/attention", biases=(has_bias, has_bias))
        table.feed_forward(maps, f"{paths[1]}/layer", is_gated=self.is_gated, has_bias=map_bias)
        for their_name, path in zip(self.norms, paths, strict=True):
            self.add_norm(table, f"{theirs}.{their_name}", f"{path}/norm")

    def add_head(self, table: TensorTable, head: Head) -> None:
        size = len(self.labels) or self.settings.integer("vocab_size")
        has_bias = self.settings.flag("classifier_bias", default=self.has_head_bias)
        if head.dense is not None:
            table.dense(head.dense, "head_dense", has_bias=has_bias)
        if head.norm is not None:
            self.add_norm(table, head.norm, "head_norm")
        if self.labels or not self.is_tied:
            kernel = VocabularyRows(size, transposed=True)
            table.add(f"{head.softmax}.weight", "softmax/kernel", kernel)
        if self.labels or self.settings.flag("decoder_bias", default=True):
            bias = f"{head.softmax}.bias" if self.has_two_biases else head.bias
            table.add(bias, "softmax/bias", VocabularyRows(size))

    def add_norm(self, table: TensorTable, theirs: str, ours: str) -> None:
        """Adds a layer norm; early files have TensorFlow's names."""
        if f"{theirs}.gamma".removeprefix(self.missing) not in self.settings.tensors:
            table.norm(theirs, ours)
        else:
            table.add(f"{theirs}.gamma", f"{ours}/scale")
            table.add(f"{theirs}.beta", f"{ours}/bias")

    def make_blocks(self) -> Blocks:
        return Blocks([LAYERS] * self.settings.count(self.num_layers), "encoder_stack")
