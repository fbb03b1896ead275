"""Tests of mtfrun.tools.data_viewer.rows_text: rows on a terminal."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.tools.data_viewer.rows_text import columns_of, rows_text
from tests.tools.data_viewer.rows import packed_row, views


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


def test_weights_of_the_loss_are_a_line_where_they_differ() -> None:
    batch = packed_row("abc", "d", length=6)
    batch["targets_weights"] = np.array([[0, 0, 1, 0.5, 1, 1]], np.float32)
    lines = list(rows_text(views(batch), width=80, has_tokens=True))
    assert "    segment 1: 4 tokens, loss on 2" in lines and "    segment 2: 2 tokens" in lines
    assert [line for line in lines if line.startswith("    loss")] == [
        "    loss      0   0   1   0.5"
    ]


def test_texts_with_a_loss_are_highlighted_where_others_have_none() -> None:
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


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = "\x1b[2J\x07\n\u202e"
    lines = list(rows_text(views(packed_row(text, length=16)), width=80, has_tokens=True))
    assert all(line.isprintable() for line in lines)
    assert "    | \\x1b[2J\\x07\\n\\u202e<end>" in lines


def test_inputs_targets_images_and_labels_are_shown() -> None:
    batch: dict[str, np.ndarray] = {
        "inputs": np.array([[100, 1, 0]], np.int32),
        "targets": np.array([[101, 1]], np.int32),
        "images": np.zeros([1, 4, 5, 3], np.uint8),
        "labels": np.array([1], np.int32),
        "weights": np.array([1], np.int32),
    }
    lines = list(rows_text(views(batch), width=80, has_tokens=True))
    assert lines[1:4] == [
        "  images: 4 x 5, 3 channels",
        "  labels: 1 (dog)",
        "  weights: 1",
    ]
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
