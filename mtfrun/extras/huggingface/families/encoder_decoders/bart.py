"""BART and its kin: encoder-decoders with biases. Lewis et al. 2019, arXiv:1910.13461.

Marian: Junczys-Dowmunt et al. 2018, arXiv:1804.00344; PEGASUS: Zhang et al. 2019,
arXiv:1912.08777; mBART: Liu et al. 2020, arXiv:2001.08210; M2M-100: Fan et al. 2020,
arXiv:2010.11125; NLLB: Costa-jussà et al. 2022, arXiv:2207.04672.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.family import (
    Processor,
    TextFamily,
    write_sizes,
    write_text_data,
    write_transforms,
)
from mtfrun.extras.huggingface.generation import Generation, read_generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    OneRow,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    attention_rows,
    feed_forward_rows,
    norm_rows,
)
from mtfrun.extras.huggingface.tokenizers.tokenizer import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokenizer,
    read_tokenizer,
    special_tokens_around,
    tokens_of,
)

_STACKS = ("encoder", "decoder")
_BIAS, _SOFTMAX = "final_logits_bias", "lm_head.weight"
# As in extras/huggingface/models/bart.gin.
_USUAL = "@mtf.exact_gelu"
# Longer texts need much memory.
_LONGEST = 1024
_VOCABULARY, _FIRST = "huggingface.HuggingFaceVocabulary", "decoding.FirstIds"
# Default input languages of classes that ignore the file's template.
_DEFAULTS = {"MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "NllbTokenizer": "eng_Latn"}


class Bart(TextFamily):
    """Learned positions, and norms after the sublayers.

    `padding_id` to `attention_rate` are defaults; `reads_pieces`: see `read_tokenizer`. Stacks
    begin with `first_norm` and end with `last_norm`, unless "".
    """

    shipped_file: ClassVar[str] = "extras/huggingface/models/bart.gin"
    padding_id: ClassVar[int] = 1
    start_id: ClassVar[int] = 2
    activation: ClassVar[str] = "gelu"
    scales: ClassVar[bool] = False
    attention_rate: ClassVar[float] = 0.0
    reads_pieces: ClassVar[bool] = True
    has_languages: ClassVar[bool] = False
    first_norm: ClassVar[str] = "layernorm_embedding"
    last_norm: ClassVar[str] = ""
    kept: ClassVar[Sequence[str]] = ()

    def ties(self, settings: Settings) -> Mapping[str, str]:
        if not settings.flag("tie_word_embeddings", default=True):
            return {}
        prefix = _prefix(settings)
        shared = f"{prefix}shared.weight"
        if shared not in settings.tensors:  # separate embeddings of inputs and targets
            return {_SOFTMAX: f"{prefix}decoder.embed_tokens.weight"}
        names = [_SOFTMAX, *(f"{prefix}{stack}.embed_tokens.weight" for stack in _STACKS)]
        return dict.fromkeys(names, shared)

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        pad_id = 0 if settings.non_negative("pad_token_id", self.padding_id) == 0 else -1
        tokenizer = read_tokenizer(folder, settings, pad_id, reads_pieces=self.reads_pieces)
        generation = read_generation(folder, settings, tokenizer.end_id)
        languages = _read_languages(folder, tokenizer, generation) if self.has_languages else None
        return [tokenizer, generation, *([languages] if languages else [])]

    def module_of(self, tensor: str, settings: Settings) -> str:
        name = super().module_of(tensor, settings)
        return name if _prefix(settings) or tensor == _SOFTMAX else f"model.{name}"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        size = settings.integer("vocab_size")
        settings.require("decoder_vocab_size", size)
        file.include(self.shipped_file, "data/pairs.gin")
        write_text_data(file, "data/tsv_pairs.gin")
        max_positions = settings.integer("max_position_embeddings", 1024)
        longest = min(max_positions, _LONGEST)
        file.macro("INPUTS_LENGTH", longest, "tokens of the longest texts")
        file.macro("TARGETS_LENGTH", longest)
        file.gap()
        self._write_stacks(settings, file)
        rate = settings.number("dropout", 0.1)
        file.macro("DROPOUT_RATE", rate)
        attention_rate = settings.number("attention_dropout", self.attention_rate)
        if attention_rate != rate:
            file.macro("ATTENTION_DROPOUT_RATE", attention_rate)
        function = settings.activation("activation_function", self.activation)
        inner = {} if str(function) == _USUAL else {"activation": function}
        inner_rate = settings.number("activation_dropout", 0.0)
        file.bind("transformer.FeedForward", inner | {"dropout_rate": inner_rate})
        parameters: dict[str, object] = {
            "max_length": max_positions,
            "start_id": settings.non_negative("decoder_start_token_id", self.start_id),
            "scaled_vectors": settings.flag("scale_embedding", default=self.scales),
            "tied_softmax": _SOFTMAX not in settings.tensors,
            "softmax_bias": _BIAS in settings.tensors,
        }
        if self.has_table(settings):
            table = reference("@transformer.PositionalEmbedding")
            parameters |= {"position": table, "inputs_position": table}
        file.bind("transformer.TokenEmbedding", parameters)
        if _has_two_embeddings(settings):
            file.bind("transformer.EncoderDecoder", {"inputs_vocabulary_size": size})

    def _write_stacks(self, settings: Settings, file: GinFile) -> None:
        """Adds the sizes of the encoder, and those of the decoder that differ."""
        width = settings.integer("d_model")
        file.macro("NUM_LAYERS", settings.count("encoder_layers", 12))
        d_ff = settings.integer("encoder_ffn_dim", 4096)
        write_sizes(settings, file, width, d_ff, ("encoder_attention_heads", 16))
        decoder_heads = settings.integer("decoder_attention_heads", 16)
        if width % decoder_heads:
            problem = f"must divide {width}, the size of all heads"
            raise settings.error("decoder_attention_heads", problem)
        if decoder_heads != settings.integer("encoder_attention_heads", 16):
            heads = {"num_heads": decoder_heads, "d_kv": width // decoder_heads}
            file.bind("decoder/transformer.AttentionHeads", heads)
        for name, default, target, parameter in (
            ("layers", 12, "Stack", "num_layers"),
            ("ffn_dim", 4096, "FeedForward", "d_ff"),
        ):
            encoder, decoder = (settings.integer(f"{x}_{name}", default) for x in _STACKS)
            if encoder != decoder:
                file.bind(f"decoder/transformer.{target}", {parameter: decoder})

    def table(self, settings: Settings) -> TensorTable:
        prefix = _prefix(settings)
        words = VocabularyRows(settings.integer("vocab_size"))
        is_two, kept = _has_two_embeddings(settings), [*self.kept]
        tensor = f"{prefix}shared.weight"
        rows = []
        if is_two:
            kept.append(rf"{prefix}shared\.weight")
            tensor = f"{prefix}decoder.embed_tokens.weight"
            name = f"{prefix}encoder.embed_tokens.weight"
            rows.append(Row(name, "inputs_embedding/table", words))
        rows.append(Row(tensor, "embedding/table", words))
        if self.has_table(settings):
            for stack, path in zip(_STACKS, ("inputs_position", "position"), strict=True):
                name = f"{prefix}{stack}.embed_positions.weight"
                rows.append(Row(name, f"{path}/table", Same()))
        for stack in _STACKS:
            for norm, path in ((self.first_norm, "norm"), (self.last_norm, "final_norm")):
                if norm:
                    rows += norm_rows(f"{prefix}{stack}.{norm}", f"{stack}_stack/{path}")
            for layer in range(settings.count(f"{stack}_layers", 12)):
                theirs = f"{prefix}{stack}.layers.{layer}"
                rows += _layer(theirs, f"{stack}_stack/blocks/{layer}", stack)
        if _SOFTMAX in settings.tensors:
            kernel = VocabularyRows(words.size, transposed=True)
            rows.append(Row(_SOFTMAX, "softmax/kernel", kernel))
        if _BIAS in settings.tensors:
            rows.append(Row(_BIAS, "softmax/bias", OneRow(words)))
        return TensorTable(rows, kept)

    def has_table(self, settings: Settings) -> bool:
        """Whether the folder has position embeddings."""
        return f"{_prefix(settings)}encoder.embed_positions.weight" in settings.tensors


class Marian(Bart):
    """BART with sinusoidal positions, which some folders store, and no first norm."""

    shipped_file = "extras/huggingface/models/marian.gin"
    padding_id = 58100
    start_id = 58100
    first_norm = ""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if self.has_table(settings):
            comment = "sines and cosines that the folder stores"
            file.bind("transformer.PositionalEmbedding", {"trainable": False}, comment=comment)


class Pegasus(Marian):
    """Marian with norms before the sublayers; a piece's id is its number plus 103."""

    shipped_file = "extras/huggingface/models/pegasus.gin"
    padding_id = 0
    start_id = 0
    reads_pieces = False
    last_norm = "layer_norm"


class MBart(Bart):
    """BART with norms also before the sublayers; outputs begin with a language token."""

    has_languages = True
    start_id = 0
    reads_pieces = False
    last_norm = "layer_norm"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        write_transforms(file, "LayerNorm", "CallLayer", "SublayerDropout", "Residual")
        write_transforms(file, "LayerNorm", parameter="final")


class M2M100(Bart):
    """M2M-100 and NLLB: PEGASUS with other wavelengths, and positions offset by padding."""

    shipped_file = "extras/huggingface/models/pegasus.gin"
    activation = "relu"
    scales = True
    has_languages = True
    attention_rate = 0.1
    reads_pieces = False
    first_norm = ""
    last_norm = "layer_norm"
    kept = (r"(model\.)?(en|de)coder\.embed_positions\.weights",)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        padding = settings.non_negative("pad_token_id", self.padding_id)
        if settings.non_negative("decoder_start_token_id", self.start_id) == padding:
            raise settings.error("decoder_start_token_id", "is padding, which has no position")
        parameters = {"is_exact_end": True, "offset": padding + 1, "skipped_id": padding}
        file.bind("transformer.SinusoidPositions", parameters)


def _prefix(settings: Settings) -> str:
    """Folders of models without a softmax have no prefix."""
    return "" if "encoder.layers.0.fc1.weight" in settings.tensors else "model."


def _has_two_embeddings(settings: Settings) -> bool:
    return f"{_prefix(settings)}encoder.embed_tokens.weight" in settings.tensors


def _layer(theirs: str, ours: str, stack: str) -> Iterator[Row]:
    yield from _attention(theirs, "self_attn", f"{ours}/self_attention")
    if stack == "decoder":
        yield from _attention(theirs, "encoder_attn", f"{ours}/encoder_decoder_attention")
    yield from feed_forward_rows([f"{theirs}.fc1", f"{theirs}.fc2"], f"{ours}/feed_forward/layer")
    yield from norm_rows(f"{theirs}.final_layer_norm", f"{ours}/feed_forward/norm")


def _attention(theirs: str, name: str, ours: str) -> Iterator[Row]:
    modules = [f"{theirs}.{name}.{x}_proj" for x in ("q", "k", "v", "out")]
    yield from attention_rows(modules, f"{ours}/layer/attention")
    yield from norm_rows(f"{theirs}.{name}_layer_norm", f"{ours}/norm")


@dataclasses.dataclass(frozen=True)
class _Languages:
    """Inputs begin with a language token, or end with `</s>` and it if `is_behind`.

    `forced` is the first token of targets and outputs, if set.
    """

    language: str
    is_behind: bool
    end_token: str
    forced: str | None
    generation: Generation
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        file.macro("SOURCE_LANGUAGE", self.language)
        comment = "outputs begin with its token; None: with any"
        file.macro("TARGET_LANGUAGE", self.forced, comment)
        source, target = reference("%SOURCE_LANGUAGE"), reference("%TARGET_LANGUAGE")
        inputs: dict[str, object] = {"begin_token": source}
        if self.is_behind:
            inputs = {"end_token": source, "last_token": self.end_token}
        file.bind(f"inputs/{_VOCABULARY}", inputs)
        file.bind(f"targets/{_VOCABULARY}", {"begin_token": target})
        vocabularies = {x: reference(f"@{x}/{_VOCABULARY}()") for x in ("inputs", "targets")}
        file.bind("data.Task", {"vocabulary": vocabularies})
        parameters = {"vocabulary": reference("%VOCABULARY"), "tokens": [target]}
        file.bind("huggingface.ids_of_tokens", parameters)
        file.bind(_FIRST, {"ids": reference("@huggingface.ids_of_tokens()")})
        if _FIRST not in self.generation.controls:
            controls = self.generation.controls.get("decoding.Controls", {})
            others: Any = controls.get("processors", [])
            processors = [*others, reference(f"@{_FIRST}()")]
            file.bind("decoding.Controls", {"processors": processors})
            file.bind("decoding.Search", {"controls": reference("@decoding.Controls()")})


def _read_languages(
    folder: Folder, tokenizer: Tokenizer, generation: Generation
) -> _Languages | None:
    """Returns None if the tokenizer adds no language token."""
    if tokenizer.reference != f"@{_VOCABULARY}()":
        return None
    config = folder.json_of(TOKENIZER_CONFIG) if folder.has(TOKENIZER_CONFIG) else {}
    content = folder.json_of(TOKENIZER)
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    end_token = str(tokenizer.parameters.get("end_token"))
    before, behind = special_tokens_around(content.get("post_processor"))
    others = {"<s>", "</s>", end_token}
    language = next((token for token in (*before, *behind) if token not in others), None)
    is_behind = language in behind
    if name in _DEFAULTS:
        source = config.get("src_lang")
        language = source if isinstance(source, str) else _DEFAULTS[name]
        is_behind = name == "MBartTokenizer" or config.get("legacy_behaviour") is True
    tokens = tokens_of(content)
    if language is None:
        return None
    if language not in tokens.values():
        raise ConversionError(
            f"{folder.path / TOKENIZER} has no language token {language!r:.40}: set src_lang in "
            f"{TOKENIZER_CONFIG}"
        )
    first_ids: Any = generation.controls.get(_FIRST, {}).get("ids", [-1])
    return _Languages(language, is_behind, end_token, tokens.get(first_ids[0]), generation)
