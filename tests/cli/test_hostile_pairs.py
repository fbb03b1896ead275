"""Files of pairs of any bytes: one score a pair, in order."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.command import mtfrun_here, succeeded

LONG = 1_000_000
# Lines, with the input and the target of each.
TSV = {
    b"the quick \tbrown\n": (b"the quick ", b"brown"),
    b"\t\x00\n": (b"", b"\x00"),
    b"%s\tfox\n" % (b"x" * LONG): (b"x" * LONG, b"fox"),
    b"fox\t%s\n" % (b"y" * LONG): (b"fox", b"y" * LONG),
    b"a\t\n": (b"a", b""),
    b"\n": (b"", b""),
    b"\t\n": (b"", b""),
    b"no tab\n": (b"", b"no tab"),
    b"\xff\xfe\t\x80\n": (b"\xff\xfe", b"\x80"),
    b"dos\tend\r\n": (b"dos", b"end"),
    "a\u2028b\tc\x0cd\n".encode(): ("a\u2028b".encode(), b"c\x0cd"),
    b"no final\tnewline": (b"no final", b"newline"),
}
JSONL = {
    rb'{"input": "a\tb", "target": "c\nd"}' + b"\r\n": (b"a\tb", b"c\nd"),
    b'{"target": "alone"}\n': (b"", b"alone"),
    b'{"inputs": "", "targets": "", "more": [[[]]]}\n': (b"", b""),
    rb'{"prompt": "\u0000", "output": "\u2028"}' + b"\n": (b"\x00", "\u2028".encode()),
    # Half of a pair of surrogates is no text: its bytes are no UTF-8.
    rb'{"input": "\ud800", "target": "x"}' + b"\n": (b"\xed\xa0\x80", b"x"),
    b'{"input": "%s", "target": "y"}\n' % (b"x" * LONG): (b"x" * LONG, b"y"),
    b'{"input": "no final", "target": "newline"}': (b"no final", b"newline"),
}
FILES = {"pairs.tsv": TSV, "pairs.jsonl": JSONL}


def _counts(kind: str, prompt: bytes, target: bytes) -> tuple[int, int]:
    """Returns the number of tokens that are scored, and of those that are truncated."""
    if kind == "encoder-decoder":
        # 24 tokens of each, the ends among them.
        read, scored = min(len(prompt), 23), min(len(target), 23)
    else:
        # 32 tokens together: the input is truncated before the target.
        scored = min(len(target), 31)
        read = min(len(prompt), 31 - scored)
    return scored + 1, len(prompt) - read + len(target) - scored


# By default test_foreign_checkpoints.py has scores of an encoder-decoder.
@pytest.mark.parametrize(
    ("tiny_run", "name"),
    [
        ("language model", "pairs.jsonl"),
        ("language model", "pairs.tsv"),
        pytest.param("encoder-decoder", "pairs.tsv", marks=pytest.mark.slow),
        pytest.param("encoder-decoder", "pairs.jsonl", marks=pytest.mark.slow),
    ],
    indirect=["tiny_run"],
)
def test_every_line_gets_one_score_in_order(
    name: str, tiny_run: pathlib.Path, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    pairs = list(FILES[name].values())
    (tmp_path / name).write_bytes(b"".join(FILES[name]))
    output = tmp_path / "scores.jsonl"
    flags = [f"--model_dir={tiny_run}", f"--input={tmp_path}/{name}", f"--output={output}"]
    assert succeeded(mtfrun_here("score", *flags)) == []
    scores = [json.loads(line) for line in output.read_bytes().splitlines()]
    texts = [tuple(text.decode("utf-8", "replace") for text in pair) for pair in pairs]
    assert [(score["input"], score["target"]) for score in scores] == texts
    kind = request.node.callspec.params["tiny_run"]
    counts = [(score["tokens"], score["truncated_tokens"]) for score in scores]
    assert counts == [_counts(kind, *pair) for pair in pairs]
    assert all(score["log_likelihood"] < 0 for score in scores)


def test_no_pairs_give_no_scores(language_model_run: pathlib.Path) -> None:
    assert succeeded(mtfrun_here("score", f"--model_dir={language_model_run}", "--input=-")) == []


@pytest.mark.slow
def test_ten_thousand_pairs_in_batches_of_seven_keep_their_order(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pairs = [(str(i), "y" * (i % 20)) for i in range(10_000)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{i}\t{target}\n" for i, target in pairs))
    scores = succeeded(
        mtfrun_here("score", f"--model_dir={tiny_run}", f"--input={tmp_path}/pairs.tsv")
    )
    assert [(score["input"], score["target"]) for score in scores] == pairs
