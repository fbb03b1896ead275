"""The commands with a classifier of images."""

from __future__ import annotations

import io
import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtfrun.data import ImageData, TfdsImages
from mtfrun.experiment.inference.classification import LabelProbability, Prediction, _record
from tests.cli.command import error_line, mtfrun_here, succeeded


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder, in which digits are prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of three steps, with averages of its weights; tests only add to it."""
    folder = tmp_path_factory.mktemp("images")
    flags = [
        "--gin_file=runs/digits.gin",
        "--gin.STAGE_SIZES=[1]",
        "--gin.WIDTHS=[4]",
        "--gin.TRAIN_STEPS=3",
        "--gin.ITERATIONS_PER_LOOP=2",
        "--gin.EVAL_AT_START=False",
        "--gin.WARMUP_STEPS=1",
        "--gin.AVERAGE_DECAY=0.9",
    ]
    process = mtfrun_here("train", *flags, f"--model_dir={folder / 'run'}")
    assert process.returncode == 0, process.stderr.decode()
    progress = process.stderr.decode()
    assert re.search(
        r"step 3/3  loss \S+  accuracy \S+  lr \S+  \S+ images/s  (data wait \S+  )?eta", progress
    )
    assert re.search(r"eval step 3  loss \S+  accuracy \S+  top_5_accuracy \S+\n", progress)
    return folder / "run"


def _decode(trained: pathlib.Path, *flags: str) -> list[str]:
    return ["decode", f"--model_dir={trained}", "--gin.MESH_SHAPE='data:1,model:1'", *flags]


@pytest.fixture(scope="module")
def metrics(trained: pathlib.Path) -> dict[str, Any]:
    """What `eval` prints, on one device."""
    flags = [f"--model_dir={trained}", "--gin.MESH_SHAPE='data:1,model:1'"]
    (metrics,) = succeeded(mtfrun_here("eval", *flags))
    return metrics


def test_eval_prints_the_metrics(metrics: dict[str, Any]) -> None:
    assert metrics.keys() == {
        *("step", "loss", "accuracy", "top_5_accuracy", "confusion", "class_accuracy")
    }
    counts = np.array(metrics["confusion"]["counts"])
    assert counts.shape == (10, 10)
    assert np.trace(counts) / counts.sum() == pytest.approx(metrics["accuracy"])
    shares = np.diag(counts) / counts.sum(axis=1)
    np.testing.assert_allclose(list(metrics["class_accuracy"].values()), shares)
    assert metrics["step"] == 3
    assert 0.0 <= metrics["accuracy"] <= metrics["top_5_accuracy"] <= 1.0
    assert metrics["loss"] > 0.0


def test_tensorboard_shows_the_confusion_matrix_and_images_with_predictions(
    trained: pathlib.Path,
) -> None:
    events = EventAccumulator(f"{trained}/eval", size_guidance={"tensors": 0}).Reload()
    for tag in ("confusion_matrix", "predictions"):
        event = next(e for e in events.Tensors(tag) if e.step == 3)
        width, height, png = event.tensor_proto.string_val
        image = Image.open(io.BytesIO(png))
        assert image.size == (int(width), int(height)) and image.width == 350
        assert 200 <= image.height <= 215, "as high as a card of Time Series"
    train = EventAccumulator(f"{trained}/train", size_guidance={"tensors": 0}).Reload()
    tags = set(train.Tags()["tensors"])
    assert {"loss", "accuracy", "accuracy/top_5_accuracy", "perf/images_per_sec"} <= tags
    assert not {"loss/perplexity", "perf/tokens_per_sec", "confusion_matrix"} & tags


def test_decode_classifies_a_split_and_the_same_images_from_files(
    trained: pathlib.Path, metrics: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "split.jsonl"
    decode = _decode(trained, "--input=split:test", f"--output={output}")
    assert succeeded(mtfrun_here(*decode)) == []
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    images, labels = zip(*ImageData(TfdsImages("digits")).images("test"), strict=True)
    assert [line["index"] for line in lines] == list(range(377))
    assert [line["true_label"] for line in lines] == [str(label) for label in labels]
    assert {line["split"] for line in lines} == {"test"} and {line["step"] for line in lines} == {3}
    for line in lines:
        probabilities = [entry["probability"] for entry in line["top"]]
        assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)
        assert line["top"][0] == {"label": line["label"], "probability": line["probability"]}

    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images[:3]):
        Image.fromarray(image.squeeze()).save(folder / f"{i}.png")
    # The second digit in colour, and enlarged.
    large = np.repeat(images[1], 3, 2).repeat(4, 0).repeat(4, 1)
    Image.fromarray(large).save(folder / "large.jpg", quality=95)
    classified = succeeded(mtfrun_here(*_decode(trained, f"--input={folder}", "--top_k=2")))
    assert [line["file"] for line in classified] == [
        f"{folder}/{name}" for name in ("0.png", "1.png", "2.png", "large.jpg")
    ]
    for line, expected in zip(classified[:3], lines, strict=False):
        assert line["label"] == expected["label"]
        assert line["probability"] == pytest.approx(expected["probability"], rel=1e-5)
        assert len(line["top"]) == 2
    assert classified[3]["probability"] == pytest.approx(classified[1]["probability"], abs=0.1)
    # The accuracy that eval reports is that of these labels.
    right = Counter(line["label"] == line["true_label"] for line in lines)[True]
    assert metrics["accuracy"] == pytest.approx(right / 377, abs=1e-6)


def test_decode_refuses_what_it_cannot_read_and_writes_nothing(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [8, 8]).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    output = tmp_path / "answers.jsonl"
    broken = error_line(mtfrun_here(*_decode(trained, f"--input={tmp_path}", f"--output={output}")))
    assert f"cannot read the image {tmp_path}/b.png: broken" in broken
    assert not output.exists() and not list(tmp_path.glob(".*"))
    missing = error_line(mtfrun_here(*_decode(trained, f"--input={tmp_path}/a.png,none.png")))
    assert "no image none.png" in missing
    refused = error_line(mtfrun_here(*_decode(trained, "--prompt=x")))
    assert "the model reads images: give --input=FILE" in refused
    no_beams = error_line(mtfrun_here(*_decode(trained, "--input=split:test", "--beam_size=2")))
    assert "Classification has no setting --beam_size: it has --top_k" in no_beams
    no_split = error_line(mtfrun_here(*_decode(trained, "--input=split:tset")))
    assert "did you mean 'test'" in no_split


def test_decode_can_write_labels_alone(trained: pathlib.Path) -> None:
    process = mtfrun_here(*_decode(trained, "--input=split:test[:3]", "--format=text"))
    assert process.returncode == 0, process.stderr.decode()
    labels = process.stdout.decode().splitlines()
    assert len(labels) == 3 and set(labels) <= set("0123456789")


def test_a_label_of_a_file_stands_after_its_name() -> None:
    prediction = Prediction("cat", 0.5, [LabelProbability("cat", 0.5)])
    assert _record({"file": "a.png"}, prediction).texts == ["a.png\tcat"]
    assert _record({"split": "test", "index": 0}, prediction).texts == ["cat"]


def test_evaluation_uses_averages_of_the_weights_by_default(
    trained: pathlib.Path, metrics: dict[str, Any]
) -> None:
    evaluation = re.search(r"eval step 3  loss (\S+)", (trained / "train.log").read_text())
    flags = [f"--model_dir={trained}", "--gin.MESH_SHAPE='data:1,model:1'"]
    (weights,) = succeeded(mtfrun_here("eval", *flags, "--gin.USE_AVERAGES=False"))
    assert evaluation and float(evaluation[1]) == pytest.approx(metrics["loss"], abs=1e-4)
    assert abs(weights["loss"] - metrics["loss"]) > 1e-3


def test_score_is_for_texts(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    line = error_line(
        mtfrun_here("score", f"--model_dir={trained}", f"--input={tmp_path / 'pairs.tsv'}")
    )
    assert "Classification of ResNet does not score pairs" in line
