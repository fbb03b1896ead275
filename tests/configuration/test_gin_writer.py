"""The writer of gin files."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.configuration.statements import Statements
from mtfrun.extras.mesh_tensorflow.importer.gin import read_gin_file


def test_a_file_has_its_parts_in_the_order_of_the_files_that_are_shipped() -> None:
    file = GinFile(["T5.", "", "Train on: data."])
    file.include("defaults.gin")
    file.macro("D_MODEL", 512, "the width")
    file.macro("D_MODEL", 256)
    file.bind("encoder/transformer.Stack", {"layers": [reference("@moe.MoE1D")]}, comment="one")
    file.bind("encoder/transformer.Stack", {"num_layers": 3})
    assert file.text() == (
        "# T5.\n#\n# Train on: data.\n\n"
        'include "defaults.gin"\n\n'
        "from __gin__ import dynamic_registration\n"
        "from mtfrun.models import moe\n"
        "from mtfrun.models import transformer\n\n"
        "D_MODEL = 256\n\n"
        "encoder/transformer.Stack:\n"
        "    layers = [@moe.MoE1D]  # one\n"
        "    num_layers = 3\n"
    )


def test_long_lists_have_a_line_for_each_item() -> None:
    file = GinFile(["Long."])
    layers = [reference("@transformer.SelfAttention"), reference("@transformer.FeedForward")]
    file.bind("transformer.Stack", {"layers": layers * 2})
    lines = file.text().splitlines()
    assert lines[lines.index("    layers = [") + 1] == "        @transformer.SelfAttention,"
    assert max(map(len, lines)) <= 100


BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\udcff\n"]


@pytest.mark.parametrize("line_break", BREAKS)
def test_a_line_break_in_a_comment_begins_no_statement(
    line_break: str, tmp_path: pathlib.Path
) -> None:
    text = f"a{line_break}EVIL = 1"
    file = GinFile([text])
    file.macro("A", text, text)
    file.macro("B", [text] * 20, text)
    file.bind("transformer.Stack", {"layers": text, "name": {text: text}}, comment=text)
    path = tmp_path / "comments.gin"
    path.write_text(file.text())
    statements = [s.name for s in read_gin_file(path)]
    assert statements == ["A", "B", "transformer.Stack.layers", "transformer.Stack.name"]


def test_gin_reads_the_values_that_were_written(tmp_path: pathlib.Path) -> None:
    values = {
        "TEXT": 'it\'s "quoted"',
        "NUMBERS": [1, 2.5, 1e-6, None, True],
        "BY_NAME": {"inputs": (8,), "targets": (16, 32)},
    }
    file = GinFile(["Values."])
    for name, value in values.items():
        file.macro(name, value)
    path = tmp_path / "values.gin"
    path.write_text(file.text())
    statements = Statements()
    statements.add_file(str(path), [])
    assert {binding.scope: binding.value for binding in statements.bindings} == values
