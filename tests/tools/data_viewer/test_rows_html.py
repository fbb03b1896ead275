"""Tests of mtfrun.tools.data_viewer.rows_html: rows in a page."""

from __future__ import annotations

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image

from mtfrun.tools.data_viewer.rows_html import rows_html
from tests.tools.data_viewer.rows import packed_row, views


class _Page(html.parser.HTMLParser):
    """The elements of a page: tag, attributes and the text directly inside."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if not self.elements:  # between the declaration and the first element
            return
        tag, attributes, text = self.elements.pop()
        self.elements.append((tag, attributes, text + data))

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Returns the attributes and texts of the elements of a tag."""
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


def _page(batch: dict[str, np.ndarray], title: str = "Rows") -> tuple[_Page, str]:
    text = "".join(rows_html(views(batch), title, ["12 rows"]))
    return _Page(text), text


def test_every_token_says_its_id_and_position_and_segments_differ_in_colour() -> None:
    page, _ = _page(packed_row("ab", "c", length=8))
    *tokens, padding = page.of("span")
    assert [text for _, text in tokens] == ["a", "b", "<end>", "c", "<end>"]
    assert [attributes["class"] for attributes, _ in tokens] == ["c0", "c0", "c0", "c1", "c1"]
    assert tokens[1][0]["title"] == (
        "id 101, position 1, segment 1: 3 tokens, weight of the loss 1"
    )
    assert str(tokens[3][0]["title"]).startswith("id 102, position 0, segment 2")
    assert (padding[0], padding[1].strip()) == ({"class": "padding"}, "3 padding")


def test_text_is_escaped_and_the_page_refers_to_no_other_file() -> None:
    hostile = '</span><script>alert("x")</script>&amp;\x00\x1b'
    page, text = _page(packed_row(hostile, length=64), title="<b>&")
    assert {tag for tag, *_ in page.elements} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "span")
    }
    shown = "".join(content for _, content in page.of("span")[:-1])
    assert shown == '</span><script>alert("x")</script>&amp;\\x00\\x1b<end>'
    assert [text.strip() for _, text in page.of("h1")] == ["<b>&"]
    assert not re.search(r"(src|href|url)\s*[=(]", text)


def test_tokens_without_loss_are_marked() -> None:
    batch = packed_row("ab", length=3)
    batch["targets_weights"] = np.array([[0, 1, 1]], np.float32)
    page, _ = _page(batch)
    assert [attributes["class"] for attributes, _ in page.of("span")] == [
        "c0 without-loss",
        "c0",
        "c0",
    ]


def test_images_are_part_of_the_page() -> None:
    generator = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = generator.integers(0, 256, [1, 6, 8, channels], dtype=np.uint8)
        page, _ = _page({"images": pixels, "labels": np.array([2], np.int32)})
        ((attributes, _),) = page.of("img")
        assert (attributes["width"], attributes["height"]) == ("128", "96")
        source = attributes["src"] or ""
        png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        decoded = np.asarray(Image.open(io.BytesIO(png))).reshape(6, 8, channels)
        np.testing.assert_array_equal(decoded, pixels[0])
        assert "labels: 2 (cow)" in [text.strip() for _, text in page.of("p")]
