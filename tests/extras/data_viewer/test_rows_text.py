"""Rows of data as text and as pages, and their statistics."""

from __future__ import annotations

import base64
import html
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import ByteVocabulary, SentencePieceVocabulary
from mtfrun.data.vocabularies.sentencepiece_training import (
    SentencePieceTraining,
    train_sentencepiece,
)
from mtfrun.extras.data_viewer import statistics as module
from mtfrun.extras.data_viewer.row_view import RowView, row_views, token_texts
from mtfrun.extras.data_viewer.rows_html import rows_html
from mtfrun.extras.data_viewer.rows_text import columns_of, rows_text
from mtfrun.extras.data_viewer.statistics import bytes_of, histogram, statistics_lines

VOCABULARY = ByteVocabulary()


def packed_row(*texts: str, length: int) -> dict[str, np.ndarray]:
    """Returns a batch of one row that holds the texts."""
    ids = [[*VOCABULARY.encode(text).tolist(), VOCABULARY.end_id] for text in texts]
    columns = {
        "targets": [number for segment in ids for number in segment],
        "targets_segmentation": [i + 1 for i, segment in enumerate(ids) for _ in segment],
        "targets_position": [position for segment in ids for position in range(len(segment))],
    }
    return {
        name: np.array([[*values, *[0] * (length - len(values))]], np.int32)
        for name, values in columns.items()
    }


def views(batch: dict[str, np.ndarray]) -> list[RowView]:
    """Returns the rows of a batch of ids of bytes, and of labels of three classes."""
    vocabularies = {"inputs": VOCABULARY, "targets": VOCABULARY}
    return row_views(batch, vocabularies, {"labels": ["cat", "dog", "cow"]})


def test_a_row_is_shown_segment_by_segment_in_aligned_columns() -> None:
    lines = list(rows_text(views(packed_row("ab c", "né", length=12)), width=80, has_tokens=True))
    assert lines == [
        "row 1 of 1",
        "  targets: 12 positions, 9 tokens in 2 segments, 3 padding, loss on 9",
        "    segment 1: 5 tokens",
        "    | ab c<end>",
        "    text      a   b   \u2423  c   <end>",
        "    id        100 101 35 102 1",
        "    position  0   1   2  3   4",
        "    segment 2: 4 tokens",
        "    | né<end>",
        "    text      n       é   <end>",
        "    id        113 198 172 1",
        "    position  0   1   2   3",
        "",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_lines_are_wrapped_at_the_width_and_no_token_is_lost(width: int) -> None:
    text = "the quick brown fox 語語 " * 8
    lines = list(rows_text(views(packed_row(text, length=400)), width, has_tokens=True))
    assert max(map(columns_of, lines)) <= width
    ids = " ".join(line.split(maxsplit=1)[1] for line in lines if line.startswith("    id"))
    assert [int(number) for number in ids.split()][:-1] == [b + 3 for b in text.encode()]
    shown = "".join(line.removeprefix("    | ") for line in lines if line.startswith("    | "))
    assert shown == text + "<end>"


def test_texts_with_a_loss_are_highlighted_and_their_weights_a_line_where_they_differ() -> None:
    batch = packed_row("abc", "d", length=6)
    batch["targets_weights"] = np.array([[0, 0, 1, 0.5, 1, 1]], np.float32)
    lines = list(rows_text(views(batch), width=80, has_tokens=True))
    assert "    segment 1: 4 tokens, loss on 2" in lines and "    segment 2: 2 tokens" in lines
    losses = [line for line in lines if line.startswith("    loss")]
    assert losses == ["    loss      0   0   1   0.5"]
    batch = packed_row("ab\x1bcd", "e", length=9)
    batch["targets_weights"] = np.array([[0, 0, 1, 1, 0, 1, 1, 1, 0]], np.int32)
    lines = list(rows_text(views(batch), width=12, highlight=lambda text: f"[{text}]"))
    texts = [line for line in lines if line.startswith("    | ")]
    assert texts == ["    | ab[\\x1b]", "    | [c]d[<end]", "    | [>]", "    | e<end>"]


def test_targets_of_a_masked_language_model_stand_below_the_inputs() -> None:
    batch = {
        "inputs": np.array([[100, 258, 102, 1, 0]], np.int32),
        "targets": np.array([[0, 101, 0, 0, 0]], np.int32),
    }
    lines = list(rows_text(views(batch), width=80, has_tokens=True))
    assert "  targets: 5 positions, 4 tokens in 1 segment, 1 padding, loss on 1" in lines
    assert lines[-5:] == [
        "    text      <pad> b   <pad> <pad>",
        "    id        0     101 0     0",
        "    position  0     1   2     3",
        "    loss      0     1   0     0",
        "",
    ]


def test_inputs_targets_images_and_labels_are_shown() -> None:
    batch: dict[str, np.ndarray] = {
        "inputs": np.array([[100, 1, 0]], np.int32),
        "targets": np.array([[101, 1]], np.int32),
        "images": np.zeros([1, 4, 5, 3], np.uint8),
        "labels": np.array([1], np.int32),
        "weights": np.array([1], np.int32),
    }
    lines = list(rows_text(views(batch), width=80, has_tokens=True))
    assert lines[1:4] == ["  images: 4 x 5, 3 channels", "  labels: 1 (dog)", "  weights: 1"]
    assert "  inputs: 3 positions, 2 tokens in 1 segment, 1 padding" in lines
    assert "  targets: 2 positions, 2 tokens in 1 segment, 0 padding, loss on 2" in lines


def test_without_tokens_the_beginnings_of_the_first_segments_are_shown() -> None:
    texts = ["a" * 400, "b", "c", "d", "e"]
    lines = list(rows_text(views(packed_row(*texts, length=600)), width=80))
    assert lines[2:8] == [
        "    segment 1: 401 tokens",
        *["    | " + "a" * 74] * 3,
        "    | ...",
        "    segment 2: 2 tokens",
    ]
    assert lines[-2:] == ["    and 2 more segments", ""] and len(lines) == 13


def test_the_texts_of_ids_joined_are_the_text() -> None:
    text = "a né 語 \U0001f600\n"
    texts = token_texts(VOCABULARY, VOCABULARY.encode(text))
    assert "".join(texts) == text and len(texts) == len(text.encode())


def test_a_space_that_a_vocabulary_puts_before_a_text_is_not_shown(tmp_path: pathlib.Path) -> None:
    lines = [b"the %d quick foxes, and one dog" % i for i in range(90)]
    file = tmp_path / "small.model"
    file.write_bytes(train_sentencepiece(lines, SentencePieceTraining(290)).proto)
    vocabulary = SentencePieceVocabulary(str(file), extra_ids=0)
    ids = [*vocabulary.encode("the d\u00e9 1"), vocabulary.end_id, *vocabulary.encode("dog")]
    assert "".join(token_texts(vocabulary, np.array(ids))) == "the d\u00e9 1<end>dog"


def test_ids_without_a_character_are_named_and_the_following_ones_decoded() -> None:
    (half,) = VOCABULARY.encode("é")[:1].tolist()
    first, second = VOCABULARY.sentinels[:2].tolist()
    ids = [first, *VOCABULARY.encode("ab").tolist(), second, half, VOCABULARY.end_id, 0, 300]
    # A byte that begins a character is a sentinel of ByT5 as well.
    of_half = f"<extra_id_{VOCABULARY.sentinels.tolist().index(half)}>"
    assert token_texts(VOCABULARY, ids) == [
        *("<extra_id_0>", "a", "b", "<extra_id_1>", of_half, "<end>", "<pad>", "<300>")
    ]
    continuation = 0x80 + 3
    assert token_texts(VOCABULARY, [continuation, *VOCABULARY.encode("a")]) == ["\ufffd", "a"]


def _page(batch: dict[str, np.ndarray], title: str = "Rows") -> str:
    return rows_html(views(batch), title, ["12 rows"])


def _spans(page: str) -> list[tuple[str, str, str]]:
    """Returns class, title and text of every token."""
    spans = re.findall(r'<span class="([^"]*)" title="([^"]*)">([^<]*)</span>', page)
    return [(name, title, html.unescape(text)) for name, title, text in spans]


def test_every_token_says_its_id_and_position_and_segments_differ_in_colour() -> None:
    batch = packed_row("ab", "c", length=8)
    batch["targets_weights"] = np.array([[0, 1, 1, 1, 1, 0, 0, 0]], np.float32)
    page = _page(batch)
    classes, titles, texts = zip(*_spans(page), strict=True)
    assert texts == ("a", "b", "<end>", "c", "<end>")
    assert classes == ("c0 without-loss", "c0", "c0", "c1", "c1")
    assert titles[1] == "id 101, position 1, segment 1: 3 tokens, loss on 2, weight of the loss 1"
    assert titles[3].startswith("id 102, position 0, segment 2")
    assert '<span class="padding"> 3 padding</span>' in page


def test_text_is_escaped_and_the_page_refers_to_no_other_file() -> None:
    hostile = '</span><script>alert("x")</script>&amp;\x00\x1b'
    page = _page(packed_row(hostile, length=64), title="<b>&")
    assert set(re.findall(r"<(\w+)", page)) == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "span")
    }
    shown = "".join(text for *_, text in _spans(page))
    assert shown == '</span><script>alert("x")</script>&amp;\\x00\\x1b<end>'
    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert not re.search(r"(src|href|url)\s*[=(]", page)


def test_images_are_part_of_the_page() -> None:
    generator = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = generator.integers(0, 256, [1, 6, 8, channels], dtype=np.uint8)
        page = _page({"images": pixels, "labels": np.array([2], np.int32)})
        assert 'width="128" height="96"' in page and "<p>labels: 2 (cow)</p>" in page
        (png,) = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        np.testing.assert_array_equal(decoded.reshape(6, 8, channels), pixels[0])


def test_counts_percentiles_and_what_is_cut() -> None:
    lines = list(statistics_lines("x", np.arange(1, 101), 5050, width=200, capacity=90))
    assert lines[:3] == [
        "  x: 100 texts, 5,050 tokens, 5,050 bytes, 1.00 bytes a token",
        "    tokens of a text: mean 50.5, 5%: 5, 25%: 25, 50%: 50, 75%: 75, 95%: 95, 99%: 99, "
        "longest 100",
        "    cut at 90 tokens: 10 texts (10.00%), 55 tokens (1.09%)",
    ]
    counts = {(1, 1): 1, (2, 3): 2, (4, 7): 4, (8, 15): 8, (16, 31): 16, (32, 63): 32}
    assert histogram(np.arange(1, 101)) == {**counts, (64, 127): 37}
    assert not any("cut" in line for line in statistics_lines("x", np.array([8]), 8, width=80))


@pytest.mark.parametrize("ids_per_step", [1, 7, 1 << 22])
def test_bytes_are_counted_by_feature(ids_per_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDS_PER_STEP", ids_per_step)
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 6, [20, 2])
    ends = np.cumsum(lengths.reshape(-1)).reshape(20, 2)
    tokens = generator.integers(0, 10, ends[-1, -1])
    bytes_per_id = [np.arange(10), np.arange(10)[::-1]]
    expected, start = [0, 0], 0
    for i, end in enumerate(ends.reshape(-1).tolist()):
        expected[i % 2] += int(bytes_per_id[i % 2][tokens[start:end]].sum())
        start = end
    assert bytes_of(tokens, bytes_per_id, ends) == expected


def test_lines_have_bars_of_the_shares() -> None:
    lengths = np.array([4, 4, 4, 20])
    assert list(statistics_lines("targets", lengths, 96, width=50, capacity=16)) == [
        "  targets: 4 texts, 32 tokens, 96 bytes, 3.00",
        "      bytes a token",
        "    tokens of a text: mean 8.0, 5%: 4, 25%: 4,",
        "        50%: 4, 75%: 4, 95%: 20, 99%: 20, longest",
        "        20",
        "    cut at 16 tokens: 1 texts (25.00%), 4 tokens",
        "        (12.50%)",
        f"      4-7  75.0 %  {'#' * 30}",
        "     8-15   0.0 %",
        f"    16-31  25.0 %  {'#' * 10}",
    ]
