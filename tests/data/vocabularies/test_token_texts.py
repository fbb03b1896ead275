"""Texts of single ids, for pictures and the projector."""

from __future__ import annotations

import html
import pathlib

import sentencepiece

from mtfrun.data import ByteVocabulary, IdVocabulary, SentencePieceVocabulary
from mtfrun.experiment.evaluation.evaluators import markdown_table
from mtfrun.extras.text_tasks import LabelVocabulary


def test_special_ids_and_bytes_have_a_text() -> None:
    vocabulary = ByteVocabulary()
    texts = [vocabulary.token_text(token) for token in (0, 1, 2, ord("A") + 3, 0xE4 + 3, 300)]
    assert texts == ["<pad>", "</s>", "<2>", "A", "\\xe4", "<300>"]
    assert LabelVocabulary(["animal", "plant"]).token_text(4) == "plant"
    assert IdVocabulary(160).token_text(24) == "24"


def test_pieces_show_the_space_before_them(tmp_path: pathlib.Path) -> None:
    prefix = tmp_path / "model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 20),
        model_prefix=str(prefix),
        vocab_size=30,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    vocabulary = SentencePieceVocabulary(f"{prefix}.model", extra_ids=2)
    ids = vocabulary.encode("the fox").tolist()
    assert "".join(vocabulary.token_text(token) for token in ids) == "▁the▁fox"
    assert vocabulary.token_text(0) == "<pad>" and vocabulary.token_text(vocabulary.size - 1)


def test_cells_of_tables_show_texts_as_they_are() -> None:
    table = markdown_table(["input"], [["a|b `c`\n  <d> "], ["x" * 2000]])
    first, second = table.splitlines()[2:]
    assert first.startswith("| a&#124;b &#96;c&#96;<br>&nbsp;") and first.count("|") == 2
    assert "<br>" in first and "\n" not in first and "&nbsp;" in first
    assert html.unescape(second).endswith("(2,000 characters) |") and len(second) < 1100
