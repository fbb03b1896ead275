"""Hyperparameters in TensorBoard's table of runs, with its reader."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from mtfrun.extras.sweeps.hparams import Metric, begin_session, end_session, write_hparams


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
def record_hparams(directory: str, values: dict[str, Any], **settings: Any) -> Iterator[None]:
    file, is_success = begin_session(directory, values, **settings), False
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


def test_one_description_holds_for_all_runs_of_a_directory(tmp_path: pathlib.Path) -> None:
    first, later = str(tmp_path / "first"), str(tmp_path / "later")
    with record_hparams(first, {"B": 1, "A": 2}, metrics=[Metric("loss", "eval")], first=["B"]):
        own = metadata.parse_experiment_plugin_data(
            _content(tmp_path / "first", metadata.EXPERIMENT_TAG)
        )
        assert [(info.name, info.differs) for info in own.hparam_infos] == [("B", True)]
        assert [metric.name.tag for metric in own.metric_infos] == ["loss"]
        write_hparams(str(tmp_path), [{"B": 1}, {"B": 2}], [Metric("accuracy", "eval")])
    with record_hparams(later, {"B": 2}, metrics=[Metric("loss", "eval")]):
        pass
    for name, value in (("first", 1.0), ("later", 2.0)):
        tags = EventAccumulator(str(tmp_path / name)).Reload().Tags()["tensors"]
        assert metadata.EXPERIMENT_TAG not in tags
        assert _hparams(tmp_path / name)["B"] == value
        assert _status(tmp_path / name) == api_pb2.STATUS_SUCCESS
    _content(tmp_path, metadata.EXPERIMENT_TAG)


def test_values_that_differ_between_runs_come_first_and_unset_ones_are_left_out(
    tmp_path: pathlib.Path,
) -> None:
    for name, rate, extra in (("a", 0.1, {}), ("b", 0.2, {}), ("c", 0.2, {"EXPERTS": 4})):
        values = {"SEED": 0, "STEPS": 10, "RATE": rate, **extra}
        with record_hparams(str(tmp_path / name), values, first=["STEPS"]):
            pass
    for name in ("a", "b"):
        tags = EventAccumulator(str(tmp_path / name)).Reload().Tags()["tensors"]
        assert metadata.EXPERIMENT_TAG not in tags
        assert _status(tmp_path / name) == api_pb2.STATUS_SUCCESS
    content = _content(tmp_path / "c", metadata.EXPERIMENT_TAG)
    infos = metadata.parse_experiment_plugin_data(content).hparam_infos
    assert [(info.name, info.differs) for info in infos] == [
        ("RATE", True),
        ("EXPERTS", True),
        ("STEPS", False),
    ]


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
    write_hparams(str(tmp_path), runs, [Metric("loss", "eval"), Metric("loss", "train")])
    content = _content(tmp_path, metadata.EXPERIMENT_TAG)
    experiment = metadata.parse_experiment_plugin_data(content)
    infos = {info.name: info for info in experiment.hparam_infos}
    assert infos.keys() == {"RATE", "STEPS", "LAYERS", "MIXED"}
    assert infos["RATE"].domain_interval.max_value == 0.1
    assert list(infos["STEPS"].domain_discrete) == [0.0, 100.0]
    assert list(infos["LAYERS"].domain_discrete) == ["[0]", "[1]", "[2]"]
    assert infos["MIXED"].WhichOneof("domain") is None
    shown = [(m.name.group, m.name.tag, m.display_name) for m in experiment.metric_infos]
    assert shown == [("eval", "loss", "eval loss"), ("train", "loss", "train loss")]
