"""Tests of mtfrun.rundir.tensorboard.summaries, with TensorBoard's reader."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun.rundir import RunDirectory
from mtfrun.rundir.tensorboard.summaries import Summaries


def read(directory: pathlib.Path) -> EventAccumulator:
    """Returns what TensorBoard's server reads in a directory, with all values."""
    return EventAccumulator(str(directory), tensor_size_guidance={"scalars": 0, "text": 0}).Reload()


def scalars(directory: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    """Returns the steps and values of a tag."""
    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in read(directory).Tensors(tag)
    ]


def test_scalars_read_back_by_tag_and_step(tmp_path: pathlib.Path) -> None:
    with RunDirectory(tmp_path).summaries("train") as writer:
        for step in (10, 20):
            writer.scalars({"loss": np.float32(step / 4), "perf/steps_per_sec": step}, step)
    assert scalars(tmp_path / "train", "loss") == [(10, 2.5), (20, 5.0)]
    assert scalars(tmp_path / "train", "perf/steps_per_sec") == [(10, 10.0), (20, 20.0)]
    metadata = read(tmp_path / "train").SummaryMetadata("loss")
    assert metadata.plugin_data.plugin_name == "scalars"


def test_text_histograms_and_images_read_back(tmp_path: pathlib.Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with Summaries(tmp_path) as writer:
        writer.text("config", "    a = 1\n*Grüße*", 5)
        writer.histogram("weights", np.array([[0.0, 1.0], [1.0, 2.0]]), 5)
        writer.image("filters", pixels, 5)
    events = read(tmp_path)
    plugins = {
        tag: events.SummaryMetadata(tag).plugin_data.plugin_name
        for tag in ("config", "weights", "filters")
    }
    assert plugins == {"config": "text", "weights": "histograms", "filters": "images"}
    arrays = {tag: tensor_util.make_ndarray(events.Tensors(tag)[0].tensor_proto) for tag in plugins}
    assert arrays["config"].item().decode() == "    a = 1\n*Grüße*"
    assert arrays["weights"][:, 2].sum() == 4, "counts of the buckets"
    width, height, png = arrays["filters"]
    assert (width, height) == (b"3", b"2")
    np.testing.assert_array_equal(tf.io.decode_png(png).numpy(), pixels)


def test_flushed_values_are_readable_while_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    writer = Summaries(tmp_path)
    writer.scalars({"loss": 1.0}, 1)
    writer.flush()
    assert scalars(tmp_path, "loss") == [(1, 1.0)]
    writer.close()


def test_a_resumed_run_replaces_what_the_killed_one_wrote_later(tmp_path: pathlib.Path) -> None:
    with Summaries(tmp_path) as killed:
        for step in (10, 20, 30, 40):
            killed.scalars({"loss": 1.0}, step)
        killed.text("samples", "lost", 40)
    with Summaries(tmp_path, resumed_step=20) as resumed:
        resumed.scalars({"loss": 2.0}, 30)
    assert scalars(tmp_path, "loss") == [(10, 1.0), (20, 1.0), (30, 2.0)]
    assert read(tmp_path).Tensors("samples") == []


def test_event_files_of_one_second_sort_in_the_order_they_were_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.5)
    for step in range(3):
        with Summaries(tmp_path) as writer:
            writer.scalars({"loss": step}, step)
    assert len(list(tmp_path.iterdir())) == 3
    assert scalars(tmp_path, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_nothing_is_written_before_the_first_value(tmp_path: pathlib.Path) -> None:
    with Summaries(tmp_path / "eval", resumed_step=3) as writer:
        writer.flush()
    assert not (tmp_path / "eval").exists()


def test_an_unwritable_directory_warns_once_and_raises_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train").write_text("a file")
    with Summaries(tmp_path / "train") as writer:
        for step in range(5):
            writer.scalars({"loss": 1.0}, step)
            writer.flush()
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith(f"cannot write summaries in {tmp_path}/train: File exists; the run")


def test_a_full_disk_warns_once_and_keeps_earlier_values(
    tmp_path: pathlib.Path, small_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Summaries(tmp_path) as writer:
        for step in range(40):
            writer.text("samples", "x" * 10_000, step)
            writer.flush()
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "the run continues without them" in warning and "\n" not in warning
    assert len(read(tmp_path).Tensors("samples")) == 6


def test_a_disk_that_fills_unflushed_is_noticed_at_the_end(
    tmp_path: pathlib.Path, small_disk: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Summaries(tmp_path) as writer:
        writer.text("samples", "x" * 100_000, 1)
    assert len(caplog.records) == 1
