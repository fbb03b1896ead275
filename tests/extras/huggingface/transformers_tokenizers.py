"""A program, not a test: writes small multilingual tokenizers, and the ids that they make of texts.

    python transformers_tokenizers.py NAME FOLDER    writes one of `TOKENIZERS`, a model for it, and
                                                     in ids.json the ids of `TEXTS`, as inputs and
                                                     as targets

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import torch
import transformers

TEXTS = ["The quick fox.", " naïve  café, déjà vu ", "Zürich </s> 12", "", "日本 fox"]
SIZES: dict[str, Any] = {
    **{"d_model": 16, "encoder_layers": 1, "encoder_ffn_dim": 24, "encoder_attention_heads": 2},
    **{"decoder_layers": 1, "decoder_ffn_dim": 24, "decoder_attention_heads": 2},
    "max_position_embeddings": 64,
}
ENCODER: dict[str, Any] = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "max_position_embeddings": 66, "type_vocab_size": 1},
}
# By name the class of the tokenizer, its arguments, and the class of the model.
TOKENIZERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mbart": (
        "MBartTokenizer",
        {"src_lang": "fr_XX", "tgt_lang": "ro_RO"},
        "MBartForConditionalGeneration",
    ),
    "mbart50": (
        "MBart50Tokenizer",
        {"src_lang": "de_DE", "tgt_lang": "ro_RO"},
        "MBartForConditionalGeneration",
    ),
    "nllb": (
        "NllbTokenizer",
        {"src_lang": "fra_Latn", "tgt_lang": "ron_Latn"},
        "M2M100ForConditionalGeneration",
    ),
    "nllb, legacy": (
        "NllbTokenizer",
        {"src_lang": "fra_Latn", "tgt_lang": "ron_Latn", "legacy_behaviour": True},
        "M2M100ForConditionalGeneration",
    ),
    "xlm-roberta": ("XLMRobertaTokenizer", {}, "XLMRobertaForMaskedLM"),
    "camembert": ("CamembertTokenizer", {}, "CamembertForMaskedLM"),
}


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a tokenizer with fairseq's special tokens before the pieces, and a random model."""
    kind, arguments, model_class = TOKENIZERS[name]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "CamembertTokenizer":
        special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    pieces = sorted({letter for text in TEXTS[:3] for letter in text if letter != " "})
    pieces = ["▁", "▁The", "▁fox", "▁caf", *pieces, *(["<mask>"] if "Camem" in kind else [])]
    vocab: Any = [(token, 0.0) for token in special] + [(x, -float(len(x))) for x in pieces]
    if kind == "CamembertTokenizer":
        vocab[5:5] = [("<s>", 0.0), ("</s>", 0.0)]
    if kind == "NllbTokenizer":
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
        arguments = {**arguments, "merges": []}
    tokenizer = getattr(transformers, kind)(vocab=vocab, **arguments)
    torch.manual_seed(0)
    cls = getattr(transformers, model_class)
    sizes = ENCODER if "Roberta" in kind or "Camem" in kind else SIZES
    model = cls(cls.config_class(vocab_size=len(tokenizer), **sizes))
    if "src_lang" in arguments:
        target = tokenizer.convert_tokens_to_ids(arguments["tgt_lang"])
        model.generation_config.forced_bos_token_id = target
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = {"inputs": [tokenizer(text)["input_ids"] for text in TEXTS]}
    ids["targets"] = [tokenizer(text_target=text)["input_ids"] for text in TEXTS]
    (folder / "ids.json").write_text(json.dumps(ids))


if __name__ == "__main__":
    make(sys.argv[1], pathlib.Path(sys.argv[2]))
