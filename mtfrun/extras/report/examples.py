"""What a run has read: packed examples of its training, and the images that it got wrong."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.configuration.run_files import CONFIG
from mtfrun.data import Data, DataError, ImageData
from mtfrun.errors import ConfigError, is_input_error
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.opening import Settings, configure_data
from mtfrun.extras.data_viewer.row_view import TRAIN, rows_of
from mtfrun.extras.data_viewer.rows_html import image_element, row_parts
from mtfrun.extras.report.answers import Answers
from mtfrun.files.errors import reason

# Wrongly labelled images of a run that a report shows.
_MOST_IMAGES = 24


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows that the training reads, as HTML whose texts are escaped."""

    data: str = ""  # the name of their class
    rows: Sequence[str] = ()
    has_images: bool = False
    # images that the model has labelled wrongly, by their index in the split
    images: Mapping[int, str] = dataclasses.field(default_factory=dict)
    note: str = ""  # why there are none, or ""


def read_examples(
    run: pathlib.Path, count: int, answers: Answers | None, allowed_imports: Sequence[str] = ()
) -> Examples:
    """Reads `count` rows that training begins with, as `mtfrun data show` does."""
    if not (run / CONFIG).is_file():
        return Examples(note=f"There is no {CONFIG}, which says what the data are.")
    try:
        settings = Settings(allowed_imports=allowed_imports)
        configured = configure_data(settings, str(run / CONFIG))
        data = configured.data
        rows = list(rows_of(data, TRAIN, count, configured.seed))
        return Examples(
            type(data).__name__,
            ["".join(row_parts(row, "h5")) for row in rows],
            any(row.images for row in rows),
            _wrong_images(data, answers),
        )
    except ConfigError:  # its message may have a line of a file that the configuration includes
        return Examples(note="The configuration cannot be read here: mtfrun data show says why.")
    except Exception as error:
        if not is_input_error(error):
            raise
        return Examples(note=f"The data cannot be read here: {reason(error)}")


def _wrong_images(data: Data, answers: Answers | None) -> dict[int, str]:
    wrong = [x for x in answers.answers if x.is_wrong] if answers is not None else []
    by_index = {x.index: x for x in wrong[:_MOST_IMAGES] if x.index is not None}
    splits = {x.split for x in by_index.values()}
    if len(splits) != 1:  # an index says nothing without its split
        return {}
    data = require(data, ImageData, "a report of labelled images", "the run's data have changed")
    try:
        first = itertools.islice(data.images(splits.pop()), max(by_index) + 1)
        return {
            i: image_element(
                pixels, f"Image {i}, labelled {by_index[i].output}, truly {by_index[i].target}"
            )
            for i, (pixels, _) in enumerate(first)
            if i in by_index
        }
    except DataError:  # the split is not there any more
        return {}
