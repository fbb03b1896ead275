"""Blocks of gin files, such as `transformer.Stack:`, are read like single bindings."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.configuration import config
from mtfrun.configuration.statements import Statements
from mtfrun.configuration.untrusted_configuration import check_untrusted
from mtfrun.errors import ConfigError
from mtfrun.experiment.runs.opening import ROOTS

HEAD = """include "defaults.gin"
include "models/lm_tiny.gin"
include "data/python_docs.gin"
from __gin__ import dynamic_registration
from mtfrun import optim
from mtfrun.models import transformer
"""
BASE = ["defaults.gin", "models/lm_tiny.gin", "data/python_docs.gin"]


def _effective(files: list[str], *flags: tuple[str, str]) -> set[str]:
    config.parse(files, flags, roots=ROOTS)
    lines = config.config_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "import", "from"))}


def test_a_block_is_the_same_as_its_bindings(tmp_path: pathlib.Path) -> None:
    block = tmp_path / "block.gin"
    block.write_text(
        HEAD
        + """
transformer.Stack:  # of the decoder
    # A comment.
    num_layers = 3

    layers = [
        @transformer.SelfAttention,  # first
        @transformer.FeedForward,
    ]
# Not indented.
optim.Adafactor:
    beta1 = 0.5
SEED = 7
"""
    )
    single = tmp_path / "single.gin"
    single.write_text(
        HEAD
        + """
transformer.Stack.num_layers = 3
transformer.Stack.layers = [@transformer.SelfAttention, @transformer.FeedForward]
optim.Adafactor.beta1 = 0.5
SEED = 7
"""
    )
    assert _effective([str(block)]) == _effective([str(single)])


def test_a_flag_overrides_a_binding_of_a_block() -> None:
    flag = ("--gin_param=Stack.num_layers=5", "Stack.num_layers=5")
    changed = _effective(BASE, flag) - _effective(BASE)
    assert changed == {"transformer.Stack.num_layers = 5"}


def test_the_recorded_configuration_reads_back_the_same(tmp_path: pathlib.Path) -> None:
    first = _effective(["runs/moe_quickstart.gin"])
    (tmp_path / "config.gin").write_text(config.config_text())
    assert _effective([str(tmp_path / "config.gin")]) == first


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("Stack:\n    num_layer = 3", "8: 'Stack' is not imported"),
        (
            "transformer.Stack:\n    num_layers = 3\n    num_layer = 3",
            "10: transformer.Stack has no parameter 'num_layer', did you mean 'num_layers'?",
        ),
        (
            "transformer.Stak:\n    num_layers = 3",
            "8: nothing is called transformer.Stak, did you mean 'transformer.Stack'?",
        ),
        (
            "transformer.Stack:\n    num_layers = 3\n    layers = [\n      @transformer.Attention]",
            "11: nothing is called transformer.Attention",
        ),
        ("optim.Adam:\n    beta1 = 0.5", "9: optim.Adam.beta1 has no effect: nothing in this"),
        (
            "transformer.Stack:\n\n    num_layers = 'three'",
            "10: transformer.Stack.num_layers is 'three': it must be int",
        ),
        ("transformer.Stack:\n    num_layers = %LAYERS", "9: macro LAYERS has no value"),
        ("transformer.Stack:\nnum_layers = 3", "9: Expected indentation. Got NAME = num_layers: "),
        (
            "transformer.Stack:\n    num_layers = true",
            "9: not a gin value: num_layers = true; write",
        ),
        (
            "transformer.Stack:\n    num_layers = 3\n  layers = []",
            "10: unindent does not match any outer indentation level: layers = []",
        ),
        (
            f"transformer.Stack:\n    num_layers = {2**64}",
            f"9: an integer does not fit 64 bits: {2**64}",
        ),
    ],
)
def test_an_error_in_a_block_names_its_line(
    block: str, expected: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(f"{HEAD}\n{block}\n")
    with pytest.raises(ConfigError) as raised:
        config.parse([str(path)], [], roots=ROOTS)
    assert str(raised.value).startswith(f"{path}:{expected}")


def test_a_block_is_not_the_value_of_a_flag() -> None:
    flag = "--gin_param=Stack:\n  num_layers = 3"
    with pytest.raises(ConfigError, match='not one binding "NAME = value"'):
        config.parse(BASE, [(flag, flag.partition("=")[2])], roots=ROOTS)


@pytest.mark.parametrize(
    ("block", "line", "name"),
    [
        ("statements.os.system:\n    command = 'id'", 4, "statements.os.system"),
        (
            "mtf.Mesh:\n  shape = 'x:1'\n  layout = @statements.os.getcwd()\n  devices = None",
            6,
            "statements.os.getcwd",
        ),
        (
            "mtf.Mesh:\n  shape = [\n      @mtf.Mesh(),\n      @statements.os.getcwd()\n  ]\n"
            "  layout = ''",
            5,
            "statements.os.getcwd",
        ),
    ],
)
def test_a_block_of_a_run_directory_is_untrusted(
    block: str, line: int, name: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "config.gin"
    path.write_text(f"""from __gin__ import dynamic_registration
from mtfrun import mtf
from mtfrun.configuration import statements
{block}
""")
    configuration = Statements()
    configuration.add_file(str(path), [])
    with pytest.raises(ConfigError) as raised:
        check_untrusted(configuration, [], "")
    assert str(raised.value).startswith(f"{path}:{line}: the run's configuration uses {name} of")
