"""Ids and masks of conversations equal those of `apply_chat_template` of transformers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mtfrun.extras.chat import ChatTemplate
from mtfrun.extras.chat.messages import encode_conversation
from mtfrun.extras.chat.template import NAMED
from mtfrun.extras.huggingface import HuggingFaceVocabulary
from tests.extras.chat.test_template import CONVERSATION

# A process of its own: transformers must not be imported beside TensorFlow.
PROGRAM = """\
import json, sys
import transformers
for folder, conversation in json.load(sys.stdin):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    result = tokenizer.apply_chat_template(
        conversation["messages"], tools=conversation.get("tools"), return_dict=True,
        return_assistant_tokens_mask=True)
    print(json.dumps([result["input_ids"], result["assistant_masks"]]))
"""

LOOPS = """\
{{ bos_token }}{% for m in messages %}
{% if m.role != 'assistant' %}
<{{ m.role }}> {{ m.content | trim }}
{% continue %}{% endif %}
 {% generation %}{{- m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif +%}
{{ eos_token }}
    {% endgeneration %}{% set ns = namespace(n=loop.index) %}
{{ ns.n }}{% endfor %}{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}"""

EMPTY = {"messages": [{"role": "assistant", "content": ""}]}
TOOLS = {
    "messages": [
        {"role": "user", "content": "\u00e9\u4e2d</s> <|im_end|>"},
        {"role": "assistant", "content": " as", "tool_calls": [{"name": "\u00e9", "x": 1.5}]},
        {"role": "tool", "content": "us"},
        {"role": "assistant", "content": "ass"},
    ],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}


SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    """Returns a tokenizer of bytes and a few merges, whose ids begin with the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "d"), ("o", "d"), ("a", "s"), ("as", "s"), ("u", "s")]
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@pytest.mark.slow
def test_ids_and_masks_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    cases, ours = [], []
    for name, text in {**NAMED, "loops": LOOPS}.items():
        folder = tmp_path / name
        folder.mkdir()
        byte_level_tokenizer().save(str(folder / "tokenizer.json"))
        config = {
            **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
            **{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": text},
        }
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(config))
        vocabulary = HuggingFaceVocabulary(str(folder / "tokenizer.json"))
        for conversation in (CONVERSATION, EMPTY, TOOLS):
            cases.append((str(folder), conversation))
            data = json.dumps(conversation).encode()
            ids, mask = encode_conversation(data, ChatTemplate(file=str(file)), vocabulary)
            ours.append([ids.tolist(), mask.astype(int).tolist()])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(cases).encode(),
        capture_output=True,
        env=environment,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr.decode()
    theirs = [json.loads(line) for line in finished.stdout.splitlines()]
    assert theirs == ours
    assert np.sum([sum(mask) for _, mask in ours]) > 100
