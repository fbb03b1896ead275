"""Tests of mtfrun.rundir.tensorboard.curves."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image

from mtfrun.rundir.tensorboard.curves import read_events
from mtfrun.rundir.tensorboard.summaries import Summaries


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
