"""A program, not a test: writes a small language model with random weights and its tokenizer.

    python judged_models.py gpt2 FOLDER 64
    python judged_models.py llama FOLDER 64     64 positions

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import sys

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


def main(form: str, folder: str, length: int) -> None:
    torch.manual_seed(0)
    tokenizer = tokenizer_of(puts_begin=form == "llama")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config: transformers.PretrainedConfig
    if form == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer), n_positions=length, n_embd=32, n_layer=2, n_head=4, **ids
        )
        model: torch.nn.Module = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=length,
            **ids,
        )
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # likelihoods that differ
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
