"""BART and its kin: encoder-decoders with biases. Lewis et al. 2019, arXiv:1910.13461.

Marian: Junczys-Dowmunt et al. 2018, arXiv:1804.00344; PEGASUS: Zhang et al. 2019,
arXiv:1912.08777; mBART: Liu et al. 2020, arXiv:2001.08210; M2M-100: Fan et al. 2020,
arXiv:2010.11125; NLLB: Costa-jussà et al. 2022, arXiv:2207.04672.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.family import Processor, TextFamily, write_transforms
from mtfrun.extras.huggingface.generation import Generation, read_generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import OneRow, TensorTable, VocabularyRows
from mtfrun.extras.huggingface.tokenizers.tokenizer import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokenizer,
    read_tokenizer,
)

_STACKS = ("encoder", "decoder")
_BIAS, _SOFTMAX = "final_logits_bias", "lm_head.weight"
# As in extras/huggingface/models/bart.gin.
_USUAL = "@mtf.exact_gelu"
# Longer texts need much memory.
_LONGEST = 1024
_VOCABULARY, _FIRST = "huggingface.HuggingFaceVocabulary", "huggingface.FirstIds"
# Default input languages of classes that ignore the file's template.
_DEFAULTS = {"MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "NllbTokenizer": "eng_Latn"}


class Bart(TextFamily):
    """Learned positions, and norms after the sublayers.

    `padding_id` to `attention_rate` are defaults; `reads_pieces`: see `read_tokenizer`. Stacks
    begin with `first_norm` and end with `last_norm`, unless "".
    """

    shipped_file = "extras/huggingface/models/bart.gin"
    padding_id = 1
    start_id = 2
    activation = "gelu"
    scales = False
    attention_rate = 0.0
    reads_pieces = True
    has_languages = False
    first_norm = "layernorm_embedding"
    last_norm = ""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        # Names of models without a softmax have no prefix.
        self.missing = "model." if "encoder.layers.0.fc1.weight" in settings.tensors else ""
        prefix = "" if self.missing else "model."
        self.has_two_embeddings = f"{prefix}encoder.embed_tokens.weight" in settings.tensors
        self.has_positions = f"{prefix}encoder.embed_positions.weight" in settings.tensors

    @property
    def ties(self) -> Mapping[str, str]:
        if not self.settings.flag("tie_word_embeddings", default=True):
            return {}
        prefix = "" if self.missing else "model."
        encoder, decoder = (f"{prefix}{stack}.embed_tokens.weight" for stack in _STACKS)
        shared = f"{prefix}shared.weight"
        if shared not in self.settings.tensors:  # separate embeddings of inputs and targets
            return {_SOFTMAX: decoder}
        return dict.fromkeys([_SOFTMAX, encoder, decoder], shared)

    def processors(self, folder: Folder) -> Sequence[Processor]:
        pad_id = 0 if self.settings.non_negative("pad_token_id", self.padding_id) == 0 else -1
        tokenizer = read_tokenizer(folder, self.settings, pad_id, reads_pieces=self.reads_pieces)
        generation = read_generation(folder, self.settings, tokenizer.end_id)
        if self.has_languages:
            generation = _with_languages(generation, folder, tokenizer)
        return [tokenizer, generation]

    def module_of(self, tensor: str) -> str:
        name = super().module_of(tensor)
        return name if tensor == _SOFTMAX else f"{self.missing}{name}"

    def write_gin(self, file: GinFile) -> None:
        settings, size = self.settings, self.settings.integer("vocab_size")
        settings.require("decoder_vocab_size", size)
        file.include(self.shipped_file, "data/pairs.gin")
        max_positions = settings.integer("max_position_embeddings", 1024)
        self.write_pairs_data(file, min(max_positions, _LONGEST))
        self._write_stacks(file)
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
        if self.has_positions:
            table = reference("@transformer.PositionalEmbedding")
            parameters |= {"position": table, "inputs_position": table}
        file.bind("transformer.TokenEmbedding", parameters)
        if self.has_two_embeddings:
            file.bind("transformer.EncoderDecoder", {"inputs_vocabulary_size": size})

    def _write_stacks(self, file: GinFile) -> None:
        """Adds the sizes of the encoder, and those of the decoder that differ."""
        settings, width = self.settings, self.settings.integer("d_model")
        file.macro("NUM_LAYERS", settings.count("encoder_layers", 12))
        d_ff, heads = ("encoder_ffn_dim", 4096), ("encoder_attention_heads", 16)
        self.write_sizes(file, ("d_model",), d_ff, heads)
        decoder_heads = settings.integer("decoder_attention_heads", 16)
        if width % decoder_heads:
            problem = f"must divide {width}, the size of all heads"
            raise settings.error("decoder_attention_heads", problem)
        if decoder_heads != settings.integer(*heads):
            sizes = {"num_heads": decoder_heads, "d_kv": width // decoder_heads}
            file.bind("decoder/transformer.AttentionHeads", sizes)
        for name, default, target, parameter in (
            ("layers", 12, "Stack", "num_layers"),
            ("ffn_dim", 4096, "FeedForward", "d_ff"),
        ):
            encoder, decoder = (settings.integer(f"{x}_{name}", default) for x in _STACKS)
            if encoder != decoder:
                file.bind(f"decoder/transformer.{target}", {parameter: decoder})

    def table(self) -> TensorTable:
        table, words = (
            TensorTable(self.missing),
            VocabularyRows(self.settings.integer("vocab_size")),
        )
        tensor = "model.shared.weight"
        if self.has_two_embeddings:
            table.keep(r"model\.shared\.weight")
            tensor = "model.decoder.embed_tokens.weight"
            table.add("model.encoder.embed_tokens.weight", "inputs_embedding/table", words)
        table.add(tensor, "embedding/table", words)
        for stack in _STACKS:
            ours = f"{stack}_stack"
            if self.has_positions:
                path = "position/table" if stack == "decoder" else "inputs_position/table"
                table.add(f"model.{stack}.embed_positions.weight", path)
            for norm, path in ((self.first_norm, "norm"), (self.last_norm, "final_norm")):
                if norm:
                    table.norm(f"model.{stack}.{norm}", f"{ours}/{path}")
            for layer in range(self.settings.count(f"{stack}_layers", 12)):
                _add_layer(table, f"model.{stack}.layers.{layer}", f"{ours}/blocks/{layer}", stack)
        if _SOFTMAX in self.settings.tensors:
            kernel = VocabularyRows(words.size, transposed=True)
            table.add(_SOFTMAX, "softmax/kernel", kernel)
        if _BIAS in self.settings.tensors:
            table.add(_BIAS, "softmax/bias", OneRow(words))
        return table


class Marian(Bart):
    """BART with sinusoidal positions, which some folders store, and no first norm."""

    shipped_file = "extras/huggingface/models/marian.gin"
    padding_id = 58100
    start_id = 58100
    first_norm = ""

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if self.has_positions:
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

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
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

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        padding = self.settings.non_negative("pad_token_id", self.padding_id)
        if self.settings.non_negative("decoder_start_token_id", self.start_id) == padding:
            problem = "is padding, which has no position"
            raise self.settings.error("decoder_start_token_id", problem)
        parameters = {"is_exact_end": True, "offset": padding + 1, "skipped_id": padding}
        file.bind("transformer.SinusoidPositions", parameters)

    def table(self) -> TensorTable:
        table = super().table()
        table.keep(r"(model\.)?(en|de)coder\.embed_positions\.weights")
        return table


def _add_layer(table: TensorTable, theirs: str, ours: str, stack: str) -> None:
    attentions = [("self_attn", "self_attention"), ("encoder_attn", "encoder_decoder_attention")]
    for their_name, name in attentions[: 1 if stack == "encoder" else 2]:
        modules = [f"{theirs}.{their_name}.{x}_proj" for x in ("q", "k", "v", "out")]
        table.attention(modules, f"{ours}/{name}/layer/attention")
        table.norm(f"{theirs}.{their_name}_layer_norm", f"{ours}/{name}/norm")
    table.feed_forward([f"{theirs}.fc1", f"{theirs}.fc2"], f"{ours}/feed_forward/layer")
    table.norm(f"{theirs}.final_layer_norm", f"{ours}/feed_forward/norm")


def _with_languages(generation: Generation, folder: Folder, tokenizer: Tokenizer) -> Generation:
    """Adds languages, if the tokenizer adds a language token.

    Inputs begin with it, or end with `</s>` and it; targets and outputs with another.
    """
    if tokenizer.reference != f"@{_VOCABULARY}()":
        return generation
    config = folder.json_of(TOKENIZER_CONFIG) if folder.has(TOKENIZER_CONFIG) else {}
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    end_token = str(tokenizer.parameters.get("end_token"))
    (before, behind), tokens = tokenizer.around, tokenizer.tokens
    others = {"<s>", "</s>", end_token}
    language = next((token for token in (*before, *behind) if token not in others), None)
    is_behind = language in behind
    if name in _DEFAULTS:
        src_lang = config.get("src_lang")
        language = src_lang if isinstance(src_lang, str) else _DEFAULTS[name]
        is_behind = name == "MBartTokenizer" or config.get("legacy_behaviour") is True
    if language is None:
        return generation
    if language not in tokens.values():
        raise ConversionError(
            f"{folder.path / TOKENIZER} has no language token {language!r:.40}: set src_lang in "
            f"{TOKENIZER_CONFIG}"
        )
    bindings = dict(generation.bindings)
    forced = tokens.get(bindings.get(_FIRST, {}).get("ids", [-1])[0])
    source, target = reference("%SOURCE_LANGUAGE"), reference("%TARGET_LANGUAGE")
    if _FIRST not in bindings:
        controls, search = (bindings.get(f"decoding.{x}", {}) for x in ("Controls", "Search"))
        processors = [*controls.get("processors", []), reference(f"@{_FIRST}()")]
        bindings["decoding.Controls"] = {**controls, "processors": processors}
        bindings["decoding.Search"] = {**search, "controls": reference("@decoding.Controls()")}
    behind_end = {"end_token": source, "last_token": end_token}
    bindings |= {
        f"inputs/{_VOCABULARY}": behind_end if is_behind else {"begin_token": source},
        f"targets/{_VOCABULARY}": {"begin_token": target},
        "data.Task": {
            "vocabulary": {x: reference(f"@{x}/{_VOCABULARY}()") for x in ("inputs", "targets")}
        },
        "huggingface.ids_of_tokens": {"vocabulary": reference("%VOCABULARY"), "tokens": [target]},
        _FIRST: {"ids": reference("@huggingface.ids_of_tokens()")},
    }
    macros: dict[str, tuple[object, str]] = {
        "SOURCE_LANGUAGE": (language, ""),
        "TARGET_LANGUAGE": (forced, "outputs begin with its token; None: with any"),
    }
    return dataclasses.replace(generation, bindings=bindings, macros=macros)
