"""The command widths: a drift without base sizes, none with them."""

from __future__ import annotations

import pytest

from tests.cli.command import error_line, mtfrun_here

MODEL = [
    *("--gin_file=runs/quickstart.gin", "--gin.NUM_LAYERS=1", "--gin.SEQUENCE_LENGTH=16"),
    *("--gin.D_MODEL=64,256", "--gin.D_FF=128,512", "--gin.NUM_HEADS=2,8"),
    *("--gin.WARMUP_STEPS=1", "--gin.LEARNING_RATE=0.2"),
]


@pytest.mark.slow
def test_a_drift_without_base_sizes_is_marked_and_is_the_exit_code() -> None:
    process = mtfrun_here("audit", "widths", *MODEL)
    assert process.returncode == 5, process.stderr.decode()
    lines = process.stdout.decode().splitlines()
    assert lines[:3] == ["d_model: 64, 256", "heads: 2, 8", "d_ff: 128, 512"]
    name = "decoder_stack/blocks/0/gated_feed_forward "
    (line,) = [line for line in lines if line.startswith(name)]
    assert line.endswith("*")


@pytest.mark.slow
def test_a_dimension_that_grows_and_is_not_named_is_printed() -> None:
    process = mtfrun_here(
        "audit", "widths", *MODEL, "--gin.BASE_SIZES={'d_model': 64, 'd_ff': 128}"
    )
    assert "not in BASE_SIZES: heads" in process.stdout.decode().splitlines()


def test_flags_that_cannot_be_used_are_one_line() -> None:
    for flags, problem in (
        (["--gin.D_MODEL=64"], "there is one width only: give flags several values"),
        (["--gin.D_MODEL=64,128,256", "--gin.D_FF=1,2"], "D_FF has 2 values, and another flag 3:"),
    ):
        quick = "--gin_file=runs/quickstart.gin"
        assert problem in error_line(mtfrun_here("audit", "widths", quick, *flags))
