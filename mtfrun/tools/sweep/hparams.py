from __future__ import annotations

import ast
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.display.quiet import quiet_import


def describe_sweep(
    directory: pathlib.Path, runs: Sequence[Mapping[str, str]], metrics: Sequence[str]
) -> None:
    """To be called once the runs have ended: TensorBoard's library imports TensorFlow."""
    with quiet_import():
        from mtfrun.rundir.tensorboard.hparams import Metric, write_hparams  # noqa: PLC0415 - see above
        from mtfrun.rundir.tensorboard.metric_tags import tag_of  # noqa: PLC0415

    values = [{name: _python(text) for name, text in run.items()} for run in runs]
    # The metrics of a mixture's tasks: "task/loss", "task/accuracy", ...
    tasks = [name.removesuffix("/loss") for name in metrics if name.endswith("/loss")]
    shown = [Metric(tag_of(name, tasks), "eval", name) for name in metrics]
    write_hparams(str(directory), values, shown)


def _python(text: str) -> Any:
    """References remain texts."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
