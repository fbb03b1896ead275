"""Summaries, their tags, curves and charts."""

from __future__ import annotations

import io
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun.metrics.charts import scalar_charts, write_metrics
from mtfrun.metrics.curves import read_events
from mtfrun.metrics.event_files import Summaries
from mtfrun.metrics.tags import description_of, entries, tag_of, vectors
from mtfrun.rundir import RunDirectory


def read(directory: pathlib.Path) -> EventAccumulator:
    return EventAccumulator(str(directory), tensor_size_guidance={"scalars": 0, "text": 0}).Reload()


def scalars(directory: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in read(directory).Tensors(tag)
    ]


def test_scalars_read_back_by_tag_and_step(tmp_path: pathlib.Path) -> None:
    with RunDirectory(tmp_path).summaries("train") as writer:
        for step in (10, 20):
            writer.scalars({"loss": np.float32(step / 4), "perf/steps_per_sec": step}, step)
        writer.flush()
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


def test_an_unwritable_directory_warns_once_and_raises_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Summaries(tmp_path / "eval", resumed_step=3) as writer:
        writer.flush()
    assert not (tmp_path / "eval").exists()
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
    with Summaries(tmp_path / "eval") as writer:
        writer.text("samples", "x" * 100_000, 1)  # is written at the end
    assert len(caplog.records) == 2


def test_the_newest_picture_of_a_tag_is_read_with_the_curves(tmp_path: pathlib.Path) -> None:
    with Summaries(tmp_path) as summaries:
        summaries.scalars({"loss": 2.0}, 10)
        for step in (10, 20):
            summaries.image("confusion_matrix", np.full([4, 6, 3], step, np.uint8), step)
        summaries.text("decodes", "| a |", 20)
    events = read_events(tmp_path)
    assert events.curves == {"loss": {10: 2.0}}
    assert list(events.pictures) == ["confusion_matrix"]
    step, png = events.pictures["confusion_matrix"]
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert step == 20 and picture.shape == (4, 6, 3) and (picture == 20).all()


def test_a_directory_without_events_has_none(tmp_path: pathlib.Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        assert read_events(directory) == ({}, {})


def test_vectors_come_back_from_the_names_of_their_entries() -> None:
    values: dict[str, np.ndarray | float] = {
        "loss": 2.0,
        "blocks/1/load": np.array([0.25, 0.75]),
        "experts_per_token": np.arange(3.0),
    }
    named = entries(values)
    names = ["loss", "blocks/1/load/0", "blocks/1/load/1"]
    assert list(named) == [*names, *(f"experts_per_token/{i}" for i in range(3))]
    named_vectors = vectors(named)
    assert named_vectors.keys() == {"blocks/1/load", "experts_per_token"}
    np.testing.assert_array_equal(named_vectors["experts_per_token"], values["experts_per_token"])


def _written_tags(directory: pathlib.Path, values: dict[str, float]) -> dict[str, str]:
    """Returns the plugins of the tags that `write_metrics` writes, by tag."""
    with Summaries(directory) as summaries:
        write_metrics(summaries, values, 7, with_pictures=True)
    (path,) = directory.iterdir()
    records = tf.compat.v1.io.tf_record_iterator(str(path))
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    written = [value for event in events for value in event.summary.value]
    return {value.tag: value.metadata.plugin_data.plugin_name for value in written}


def test_loads_become_scalars_histograms_and_one_heat_map_a_level(tmp_path: pathlib.Path) -> None:
    values = {
        "loss": 1.0,
        **{f"blocks/{i}/level_1/load/{e}": 0.5 for i in range(2) for e in range(2)},
        **{f"blocks/{i}/level_2/load/{e}": 0.25 for i in range(2) for e in range(4)},
    }
    tags = _written_tags(tmp_path, values)
    assert {tag for tag, plugin in tags.items() if plugin == "images"} == {
        "routing/level_1/2_experts",
        "routing/level_2/4_experts",
    }
    assert sum(plugin == "histograms" for plugin in tags.values()) == 4
    assert {tag for tag, plugin in tags.items() if plugin == "scalars"} == {
        "loss",
        *(
            f"{group}/block_{i}/level_{level}/{name}"
            for i in range(2)
            for level, experts in ((1, 2), (2, 4))
            for group, names in (
                ("moe", ["greatest_load", "least_load"]),
                ("moe_load", [f"expert_{e}" for e in range(experts)]),
            )
            for name in names
        ),
    }


def test_loads_that_are_not_finite_are_scalars_without_charts(tmp_path: pathlib.Path) -> None:
    values = {f"blocks/0/level_1/load/{e}": share for e, share in enumerate((np.nan, 0.5))}
    tags = _written_tags(tmp_path, values)
    assert tags.keys() >= {f"moe_load/block_0/level_1/expert_{e}" for e in range(2)}
    assert not any("greatest" in tag or tag.endswith("/load") for tag in tags)


LAYER = "decoder_stack/blocks/11/moe_2d"
TAGS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "learning_rate": "learning_rate",
    "perplexity": "loss/perplexity",
    "order_2_entropy": "loss/order_2_entropy",
    "top_5_accuracy": "accuracy/top_5_accuracy",
    "bleu": "decodes/bleu",
    "mean_iou": "accuracy/mean_iou",
    "dice_loss": "loss/dice_loss",
    "dice/disc": "dice/disc",
    "perf/steps_per_sec": "perf/steps_per_sec",
    f"{LAYER}/level_1/load/3": "moe_load/decoder/block_11/moe_2d/level_1/expert_3",
    f"{LAYER}/level_2/dropped": "moe/decoder/block_11/moe_2d/level_2/dropped",
    f"{LAYER}/experts_per_token/4": "moe_load/decoder/block_11/moe_2d/experts_per_token_4",
    "encoder_stack/blocks/0/mlp/activation/rms": "activations/encoder/block_0/mlp/rms",
    "activation/2/0/max": "activations/stage_2/block_0/max",
    "decoder_stack/blocks/0/mine/surprise": "layers/decoder/block_0/mine/surprise",
    "spell/loss": "tasks/spell/loss",
    "spell/exact_match": "tasks/spell/exact_match",
    f"spell/{LAYER}/level_1/entropy": "tasks_moe/spell/decoder/block_11/moe_2d/level_1/entropy",
    "other/loss": "other/loss",
    "my_metric": "my_metric",
}


@pytest.mark.parametrize(("name", "tag"), TAGS.items())
def test_metrics_are_grouped(name: str, tag: str) -> None:
    assert tag_of(name, tasks=["", "spell"]) == tag


@pytest.mark.parametrize("tag", TAGS.values())
def test_every_tag_has_a_title_and_a_description(tag: str) -> None:
    title, text = description_of(tag)
    assert title and "{" not in title + text
    is_user_defined = tag in ("my_metric", "other/loss")
    assert ("not of mtfrun" in text) == is_user_defined


@pytest.mark.parametrize(
    ("tag", "title"),
    [
        ("norm/gradient", "gradient norm"),
        ("norm/gradient/softmax", "gradient norm softmax"),
        ("perf/model_tflop_per_sec", "model TFLOP / s"),
        ("perf/images_per_sec", "images / s"),
        ("loss/order_3_entropy", "order-3 entropy (bits)"),
        ("tasks/spell/exact_match", "spell: exact match"),
        ("tasks_moe/spell/block_1/moe/level_1/dropped", "spell: block_1/moe/level_1: dropped"),
        ("spell/samples", "samples"),
    ],
)
def test_titles(tag: str, title: str) -> None:
    assert description_of(tag).title == title


def _charts(tags: set[str]) -> dict[str, dict[str, set[str]]]:
    return {
        category.title: {
            chart.title: {tag for tag in tags if re.match(chart.multiline.tag[0], tag)}
            for chart in category.chart
        }
        for category in scalar_charts(tags).category
    }


def test_charts_have_only_curves_that_there_are() -> None:
    tags = {
        "loss",
        "loss/perplexity",
        "learning_rate",
        "norm/update",
        "norm/update/softmax",
        "moe/block_0/moe/level_1/dropped",
        "moe_load/block_0/moe/level_1/expert_0",
        "moe_load/block_0/moe/level_1/expert_1",
        "moe_load/block_1/moe/level_1/expert_0",
    }
    assert _charts(tags) == {
        "Learning": {
            "loss": {"loss"},
            "learning rate": {"learning_rate"},
            "perplexity": {"loss/perplexity"},
        },
        "Mixture of experts": {
            "dropped choices": {"moe/block_0/moe/level_1/dropped"},
            "load of block_0/moe/level_1": {
                f"moe_load/block_0/moe/level_1/expert_{i}" for i in range(2)
            },
            "load of block_1/moe/level_1": {"moe_load/block_1/moe/level_1/expert_0"},
        },
        "Norms": {"update": {"norm/update", "norm/update/softmax"}},
    }


def test_charts_of_an_evaluation_come_before_those_of_layers() -> None:
    tags = {"loss", "decodes/bleu", "tasks/a/loss", "tasks/b/loss", "tasks/a/bleu", "moe/a/dropped"}
    assert _charts(tags) == {
        "Learning": {"loss": {"loss"}},
        "Tasks": {"loss by task": {"tasks/a/loss", "tasks/b/loss"}},
        "Predictions": {"bleu": {"decodes/bleu"}, "bleu by task": {"tasks/a/bleu"}},
    }
