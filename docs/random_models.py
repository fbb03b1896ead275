"""Writes a small model with random weights as transformers saves it, to try `mtfrun import`.

    pip install torch transformers
    python docs/random_models.py byt5 /tmp/byt5
    python docs/random_models.py llama /tmp/llama

byt5 is an encoder-decoder of ByT5's form, llama a language model of Llama's form; both read bytes.
Imported, they learn to spell numbers:

    FLAGS=(--gin_file=data/number_words.gin --gin.LEARNING_RATE=0.03 --gin.WARMUP_STEPS=200
        --gin.DecodedPairs.num_decodes=1024 --gin.Decoding.decode_length_constant=66)

    mtfrun import --from=/tmp/byt5 --model_dir=/tmp/byt5_run
    mtfrun train --gin_file=/tmp/byt5_run/config.gin "${FLAGS[@]}" \
        --gin.TRAIN_STEPS=1500 --gin.BATCH_SIZE=64 --model_dir=/tmp/byt5_tuned
    mtfrun export --model_dir=/tmp/byt5_tuned --to=/tmp/byt5_out --format=huggingface

    mtfrun import --from=/tmp/llama --model_dir=/tmp/llama_run
    mtfrun train --gin_file=/tmp/llama_run/config.gin "${FLAGS[@]}" \
        --gin_file=data/delimited_pairs.gin --gin.TRAIN_STEPS=2500 --gin.BATCH_SIZE=32 \
        --model_dir=/tmp/llama_tuned
    mtfrun export --model_dir=/tmp/llama_tuned --to=/tmp/llama_out --format=huggingface

The encoder-decoder spells all of 512 held-out numbers without any mistake after 500 of these steps,
four minutes beside other programs on two cores. The language model spells 99.9 % of 1,024 after all
steps, in eight minutes on two cores, evaluations included; after 1,500 steps 98.2 to 99.8 %, in
runs that differ in rounding alone. Transformers loads the folders and gives the same answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

# Bytes and special ids, rounded up as in ByT5.
VOCABULARY_SIZE = 384


def byt5(directory: str) -> None:
    """Writes 0.9 million parameters: two blocks on each side."""
    config = T5Config(
        vocab_size=VOCABULARY_SIZE,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,  # no factor before the softmax
        decoder_start_token_id=0,
        tokenizer_class="ByT5Tokenizer",
    )
    model = T5ForConditionalGeneration(config)
    # A softmax of its own, as in ByT5's files; transformers 5 makes models that tie it.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY_SIZE, 128) * 128**-0.5)
    model.save_pretrained(directory)
    ByT5Tokenizer().save_pretrained(directory)


def llama(directory: str) -> None:
    """Writes 0.7 million parameters: three blocks, queries in groups of two."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    ByT5Tokenizer().save_pretrained(directory)


MODELS: dict[str, Callable[[str], None]] = {"byt5": byt5, "llama": llama}

if __name__ == "__main__":
    name, path = sys.argv[1:]
    torch.manual_seed(0)
    MODELS[name](path)
