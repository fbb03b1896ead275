"""What a model has answered in the newest evaluation of a run, wrong answers first."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.errors.untrusted import LARGEST_TEXT, parse_json, read_regular
from mtfrun.files.errors import RunDirError, reason

_FILE = re.compile(r"eval_([0-9]{1,12})\.jsonl")
_MOST_CHARACTERS = 600
# What reading JSON that is not as it was written raises.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A recorded output of the model."""

    output: str
    target: str | None = None  # None where there is none, as for a sample
    input: str = ""
    task: str = ""
    split: str = ""
    index: int | None = None  # the image's index in its split; None for texts
    probability: float | None = None  # the model's probability of its label of an image

    @property
    def is_wrong(self) -> bool:
        return self.target is not None and self.target != self.output


@dataclasses.dataclass(frozen=True)
class Answers:
    step: int
    answers: Sequence[Answer]

    @property
    def has_images(self) -> bool:
        return any(answer.index is not None for answer in self.answers)

    @property
    def with_targets(self) -> int:
        return sum(answer.target is not None for answer in self.answers)

    @property
    def wrong(self) -> int:
        return sum(answer.is_wrong for answer in self.answers)


def read_answers(run: pathlib.Path) -> Answers | None:
    """Reads the newest file of `RunDirectory.write_decodes`, None without one.

    RunDirError if it is damaged.
    """
    directory = run / "decodes"
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    steps = [int(match[1]) for match in map(_FILE.fullmatch, names) if match]
    if not steps:
        return None
    path = directory / f"eval_{max(steps)}.jsonl"
    try:
        lines = read_regular(path, LARGEST_TEXT, follows_links=False).splitlines()
        answers = [_answer(parse_json(line)) for line in lines if line.strip()]
    except _DAMAGE as error:
        raise RunDirError(f"{path} is damaged ({reason(error)}): remove it") from error
    return Answers(max(steps), sorted(answers, key=lambda answer: not answer.is_wrong))


def _answer(fields: Mapping[str, Any]) -> Answer:
    is_label = "true_label" in fields
    output, target = ("label", "true_label") if is_label else ("output", "target")
    return Answer(
        output=_cut(fields[output]),
        target=None if fields.get(target) is None else _cut(fields[target]),
        input="" if is_label else _cut(fields["input"]),
        task=str(fields.get("task", "")),
        split=str(fields.get("split", "")),
        index=int(fields["index"]) if is_label else None,
        probability=float(fields["probability"]) if is_label else None,
    )


def _cut(value: object) -> str:
    text = str(value)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
