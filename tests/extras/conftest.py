"""The trained runs of the commands' tests, for the commands of extras too."""

from __future__ import annotations

from tests.cli.conftest import (
    language_model_run,
    no_columns,
    quick_run,
    run_copy,
    shared_runs,
    tiny_run,
    untouched_runs,
)

__all__ = [
    "language_model_run",
    "no_columns",
    "quick_run",
    "run_copy",
    "shared_runs",
    "tiny_run",
    "untouched_runs",
]
