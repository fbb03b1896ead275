"""Hyperparameters in TensorBoard's table of runs, with its reader."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from mtfrun.extras.sweeps.hparams import begin_session, end_session, write_hparams


def _content(directory: pathlib.Path, tag: str) -> bytes:
    """Returns what a tag of the HParams page holds."""
    events = EventAccumulator(str(directory)).Reload()
    content: bytes = events.SummaryMetadata(tag).plugin_data.content
    return content


def _hparams(directory: pathlib.Path) -> dict[str, object]:
    start = metadata.parse_session_start_info_plugin_data(
        _content(directory, metadata.SESSION_START_INFO_TAG)
    )
    kinds = {"number_value", "string_value", "bool_value"}
    return {
        name: next(getattr(value, kind) for kind in kinds if value.HasField(kind))
        for name, value in start.hparams.items()
    }


def _status(directory: pathlib.Path) -> int:
    content = _content(directory, metadata.SESSION_END_INFO_TAG)
    return int(metadata.parse_session_end_info_plugin_data(content).status)


@contextlib.contextmanager
def record_hparams(directory: str, values: dict[str, Any]) -> Iterator[None]:
    file, is_success = begin_session(directory, values), False
    try:
        yield
        is_success = True
    finally:
        end_session(file, is_success=is_success)


def test_a_run_has_its_values_and_the_state_in_which_it_has_ended(tmp_path: pathlib.Path) -> None:
    values = {"RATE": 0.1, "STEPS": 30, "WIDTHS": [16, 32], "AVERAGES": True, "CHECKPOINT": None}
    with record_hparams(str(tmp_path), values):
        assert _hparams(tmp_path)["RATE"] == 0.1, "while it runs"
    assert _hparams(tmp_path) == {
        "RATE": 0.1,
        "STEPS": 30.0,
        "WIDTHS": "[16, 32]",
        "AVERAGES": True,
        "CHECKPOINT": "None",
    }
    assert _status(tmp_path) == api_pb2.STATUS_SUCCESS


def test_a_run_that_goes_on_replaces_its_own_values_only(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "events.out.tfevents.1700000000.host"
    other.write_bytes(b"")
    with pytest.raises(KeyError), record_hparams(str(tmp_path), {"STEPS": 10}):
        raise KeyError
    assert _status(tmp_path) == api_pb2.STATUS_FAILURE
    with record_hparams(str(tmp_path), {"STEPS": 20}):
        pass
    assert _hparams(tmp_path) == {"STEPS": 20.0}
    assert len(list(tmp_path.iterdir())) == 2 and other.exists()


def test_only_the_directory_of_a_sweep_has_a_description(tmp_path: pathlib.Path) -> None:
    with record_hparams(str(tmp_path / "run"), {"B": 1}):
        write_hparams(str(tmp_path), [{"B": 1}, {"B": 2}], {"accuracy": "accuracy"})
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["tensors"]
    assert metadata.EXPERIMENT_TAG not in tags
    _content(tmp_path, metadata.EXPERIMENT_TAG)


def test_a_directory_that_cannot_be_written_is_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file")
    with record_hparams(str(tmp_path / "run"), {"STEPS": 10}):
        pass
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("cannot write the hyperparameters to ")


def test_an_experiment_has_the_domains_of_what_varies(tmp_path: pathlib.Path) -> None:
    runs = [
        {"RATE": 0.1 / n, "STEPS": 100 * (n % 2), "SEED": 0, "LAYERS": f"[{n % 3}]", "MIXED": mixed}
        for n, mixed in zip(range(1, 13), [None, 0.9] * 6, strict=True)
    ]
    write_hparams(str(tmp_path), runs, {"loss/loss": "loss"})
    content = _content(tmp_path, metadata.EXPERIMENT_TAG)
    experiment = metadata.parse_experiment_plugin_data(content)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert infos.keys() == {"RATE", "STEPS", "LAYERS", "MIXED"}
    assert infos["RATE"].domain_interval.max_value == 0.1
    assert list(infos["STEPS"].domain_discrete) == [0.0, 100.0]
    assert list(infos["LAYERS"].domain_discrete) == ["[0]", "[1]", "[2]"]
    assert infos["MIXED"].WhichOneof("domain") is None
    shown = [(m.name.group, m.name.tag, m.display_name) for m in experiment.metric_infos]
    assert shown == [("eval", "loss/loss", "eval loss")]
