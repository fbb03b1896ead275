"""A program, not a test: writes small models with random weights and their tokenizers.

    python judged_models.py FOLDER gpt2 llama t5    t5 is an encoder-decoder of bytes

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = ["The quick brown fox jumps over the lazy dog. ", "How many numbers are in three? "]
END, BEGIN = "<|endoftext|>", "<s>"


def tokenizer_of(*, puts_begin: bool) -> transformers.PreTrainedTokenizerFast:
    """Pairs of bytes; with a token before every text, or not."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    special = {"eos_token": END, "bos_token": BEGIN if puts_begin else END}
    if puts_begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def model_of(form: str, tokenizer: Any, length: int) -> Any:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if form == "gpt2":
        gpt2 = transformers.GPT2Config(
            vocab_size=len(tokenizer), n_positions=length, n_embd=32, n_layer=1, n_head=4, **ids
        )
        return transformers.GPT2LMHeadModel(gpt2)
    if form == "t5":
        t5 = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=1,
            num_heads=4,
            n_positions=length,
            decoder_start_token_id=0,
            tokenizer_class="ByT5Tokenizer",
        )
        return transformers.T5ForConditionalGeneration(t5)
    llama = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        **ids,
    )
    return transformers.LlamaForCausalLM(llama)


def write(form: str, folder: str) -> None:
    torch.manual_seed(0)
    is_t5, puts_begin = form == "t5", form == "llama"
    tokenizer = transformers.ByT5Tokenizer() if is_t5 else tokenizer_of(puts_begin=puts_begin)
    model = model_of(form, tokenizer, 512 if is_t5 else 64)
    with torch.no_grad():
        for parameter in model.parameters():  # likelihoods that differ
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        write(name, f"{sys.argv[1]}/{name}")
