"""Outputs whose first words are given continue these words."""

from __future__ import annotations

import functools
import pathlib

import pytest

from mtfrun import data, mtf
from mtfrun.errors import InputError
from mtfrun.experiment import Decoding, Experiment
from mtfrun.extras.text_tasks import GivenBeginningsData, MoveBeginning
from mtfrun.models import transformer as t
from tests.layouts import ONE_DEVICE

HEADS = t.AttentionHeads(num_heads=2, d_kv=8)
PROMPTS = [b"5 6 7", b"9 8", b"3"]


def test_the_first_words_of_the_targets_move_to_the_inputs() -> None:
    move = MoveBeginning(2)
    assert move({"inputs": b"a b", "targets": b"c d e f"}) == [
        {"inputs": b"a b\tc d", "targets": b"e f"}
    ]
    (moved,) = move({"inputs": b"a\tb", "targets": b"c d e"})
    assert moved["inputs"] == b"a b\tc d"
    assert move({"inputs": b"a", "targets": b"c d"}) == []
    with pytest.raises(data.DataError, match="targets"):
        move({"inputs": b"a"})
    with pytest.raises(InputError, match="num_words"):
        MoveBeginning(0)


def _decoding(path: pathlib.Path, kind: type[data.SequenceToSequenceData]) -> Decoding:
    path.write_text("5\t6\n")
    source = data.Tsv({"train": str(path), "validation": str(path)}, ["inputs", "targets"])
    rows = kind(data.Task(source, data.IdVocabulary(size=16)), 16, 16)
    attention = functools.partial(t.SelfAttention, heads=HEADS)
    feed_forward = functools.partial(t.FeedForward, d_ff=32)
    other = functools.partial(t.EncoderDecoderAttention, heads=HEADS)
    model = functools.partial(
        t.EncoderDecoder,
        embedding=t.TokenEmbedding(d_model=16, max_length=16),
        encoder=functools.partial(t.Stack, num_layers=1, layers=[attention, feed_forward]),
        decoder=functools.partial(t.Stack, num_layers=1, layers=[attention, other, feed_forward]),
    )
    experiment = Experiment(mtf.Mesh(ONE_DEVICE), model, rows)
    mtf.initialize(experiment.model, seed=3)
    return Decoding(experiment, 4, 16, 12)


def test_a_given_beginning_of_a_greedy_output_leads_to_the_rest(tmp_path: pathlib.Path) -> None:
    whole = _decoding(tmp_path / "x.tsv", data.SequenceToSequenceData)(PROMPTS)
    words = [answer.output.split(" ") for answer in whole]
    assert min(map(len, words)) > 3
    given = [
        b"%s\t%s" % (prompt, " ".join(output[: 1 + i]).encode())
        for i, (prompt, output) in enumerate(zip(PROMPTS, words, strict=True))
    ]
    answers = _decoding(tmp_path / "x.tsv", GivenBeginningsData)(given)
    rest = [" ".join(output[1 + i :]) for i, output in enumerate(words)]
    assert [answer.output for answer in answers] == rest
