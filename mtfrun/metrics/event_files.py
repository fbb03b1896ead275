"""TensorBoard event files; errors in writing them never stop a run."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util import tensor_util

from mtfrun import processes
from mtfrun.files.atomic import atomic_write
from mtfrun.files.errors import RunDirError, reason, refuse_link
from mtfrun.metrics.tags import description_of

# Called in the first process with the scalars of a step, by tag.
Listener = Callable[[Mapping[str, float], int], object]

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{1,12})\..*")


class Summaries:
    """Writes scalars, text, histograms and images of one directory, `train` or `eval`.

    The first process creates the file at the first value. If it cannot be written, one warning says
    so and later summaries are dropped: a run is worth more than its charts.

    `tf.io.TFRecordWriter` writes the records: `tf.summary` cannot write the restart mark below.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resumed_step: int | None = None,
        listener: Listener | None = None,
    ) -> None:
        """TensorBoard discards what an interrupted run wrote after `resumed_step`, 0 for a new run.

        Its fast loader waits for the next value of a tag. None discards no values.
        """
        self._listener = listener
        self._directory = pathlib.Path(directory)
        self._resumed_step = resumed_step
        self._writer: tf.io.TFRecordWriter | None = None
        self._failed = False
        self._described: set[str] = set()  # tags in the file
        self.has_layout = False

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        summary = Summary()
        for tag, value in values.items():
            summary.MergeFrom(scalar_pb(tag, float(value)))
        self._write(step, summary)
        if self._listener is not None and processes.is_first():
            self._listener({tag: float(value) for tag, value in values.items()}, step)

    def layout(self, layout: layout_pb2.Layout, step: int) -> None:
        summary = Summary()
        self.has_layout = True
        summary.value.add(
            tag=layout_metadata.CONFIG_SUMMARY_TAG,
            metadata=layout_metadata.create_summary_metadata(),
            tensor=tensor_util.make_tensor_proto(
                np.array(layout.SerializeToString(), dtype=np.object_)
            ),
        )
        self._write(step, summary)

    def text(self, tag: str, markdown: str, step: int) -> None:
        self._write(step, text_pb(tag, markdown))

    def histogram(self, tag: str, values: Any, step: int) -> None:
        self._write(step, histogram_pb(tag, np.asarray(values)))

    def buckets(self, tag: str, buckets: np.ndarray, step: int) -> None:
        summary = histogram_pb(tag, [])
        summary.value[0].tensor.CopyFrom(tensor_util.make_tensor_proto(buckets, np.float64))
        self._write(step, summary)

    def image(self, tag: str, pixels: Any, step: int) -> None:
        pixels = np.asarray(pixels, np.uint8)
        height, width, _ = pixels.shape
        png = tf.io.encode_png(pixels).numpy()
        summary = Summary()
        summary.value.add(
            tag=tag,
            metadata=image_metadata.create_summary_metadata(display_name=None, description=None),
            tensor=tensor_util.make_tensor_proto(
                np.array([b"%d" % width, b"%d" % height, png], dtype=np.object_)
            ),
        )
        self._write(step, summary)

    def files(self, texts: Mapping[str, str]) -> None:
        if self._failed or not processes.is_first():
            return
        with self._errors():
            for path, text in texts.items():
                atomic_write(self._directory / path, text)

    def flush(self) -> None:
        if self._writer is not None:
            with self._errors():
                self._writer.flush()

    def close(self) -> None:
        self.flush()
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._errors():
                writer.close()

    def __enter__(self) -> Summaries:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, step: int, summary: Summary) -> None:
        if self._failed or not processes.is_first():
            return
        with self._errors():
            if self._writer is None:
                self._writer = self._open()
            self._describe(summary)
            event = Event(wall_time=time.time(), step=int(step), summary=summary)
            self._writer.write(event.SerializeToString())

    def _describe(self, summary: Summary) -> None:
        """Describes the tags that are new in the file: TensorBoard shows the first description."""
        for value in summary.value:
            if value.tag not in self._described:
                self._described.add(value.tag)
                title, text = description_of(value.tag)
                value.metadata.display_name = value.metadata.display_name or title
                value.metadata.summary_description = value.metadata.summary_description or text

    def _open(self) -> tf.io.TFRecordWriter:
        self._described.clear()
        refuse_link(self._directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        writer = tf.io.TFRecordWriter(str(self._directory / self._file_name()))
        first = Event(wall_time=time.time(), file_version="brain.Event:2")
        writer.write(first.SerializeToString())
        if self._resumed_step is not None:
            # TensorBoard drops all steps from a START event on; the resumed step itself was
            # written before its checkpoint and remains. The first START of a directory counts as
            # the beginning of the run, without effect: hence two.
            start = Event(
                wall_time=time.time(),
                step=self._resumed_step + 1,
                session_log=SessionLog(status=SessionLog.START),
            )
            for _ in range(2):
                writer.write(start.SerializeToString())
            self._resumed_step = None
        return writer

    def _file_name(self) -> str:
        matches = (_EVENT_FILE.fullmatch(path.name) for path in self._directory.iterdir())
        newest = max((int(match[1]) for match in matches if match), default=0)
        seconds = max(int(time.time()), newest + 1)
        return f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RunDirError, tf.errors.OpError) as error:
            self._failed = True
            self._writer = None
            logging.warning(
                "cannot write summaries in %s: %s; the run continues without them",
                self._directory,
                reason(error),
            )
