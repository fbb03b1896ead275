"""Run directories that are written by hand, and the elements of a page."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.extras.report.run_page import Report, RunFacts, read_run
from mtfrun.metrics.curves import Events, Picture
from mtfrun.rundir import RunCost, RunRecord, Status

HOSTILE = (
    "</script><script>alert(1)</script><!-- \u2028 <img src=x onerror=alert(2)> \u202e\x1b[31m"
)
"""A text that would be markup, would end a script, and has invisible characters."""

CONFIG = "LEARNING_RATE = 0.5\noptim.Adam.learning_rate = %LEARNING_RATE\n"


def write_run(directory: pathlib.Path, text: str = "plain", *, config: str = CONFIG) -> None:
    """Writes what a training leaves, without checkpoints and curves; `text` is in all of it."""
    directory.mkdir(parents=True)
    (directory / "config.gin").write_text(f"# {text!r}\n{config}")
    cost = RunCost(parameters=1234, seconds=60.0, seconds_by_cause={"steps": 45.0, text: 5.0})
    record = RunRecord(directory)
    record.write_status(Status("failed", 20, 100, speed=3.0, unit=text, error=text, cost=cost))
    record.write_metrics({10: {"eval/loss": 2.5}, 20: {"eval/loss": 2.25}})
    write_answers(
        directory,
        [
            {"split": text, "input": text, "target": "b", "output": "b"},
            {"split": text, "input": text, "target": text, "output": f"not {text}"},
        ],
    )
    command = {
        "command": ["mtfrun", "train", f"--model_dir={text}"],
        "shell": f"mtfrun train --model_dir={text}",
        "date": "2026-11-28T10:00:00+00:00",
        "host": text,
        "versions": {"mtfrun": text},
        "commit": "0123456789abcdef",
    }
    write_json(directory / "commands/0001.json", command)


def write_answers(directory: pathlib.Path, records: Sequence[Mapping[str, object]]) -> None:
    (directory / "decodes").mkdir(exist_ok=True)
    lines = "\n".join(map(json.dumps, records))
    (directory / "decodes/eval_20.jsonl").write_text(lines)


def write_json(path: pathlib.Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def read_with_curves(directory: pathlib.Path, name: str = "run") -> RunFacts:
    """Returns the facts of a run, with a few curves and a picture."""
    steps = range(1, 21)
    train = {
        "loss": {step: 5.0 / step for step in steps},
        f"mine/{name}": dict.fromkeys(steps, 1.0),
    }
    picture = Picture(20, b"\x89PNG\r\n\x1a\n")
    events = {
        "train": Events(train, {}),
        "eval": Events({"loss": {10: 2.5, 20: 2.25}}, {"confusion_matrix": picture}),
    }
    return dataclasses.replace(read_run(directory, name), events=events)


def report_of_runs(*runs: RunFacts, title: str = "Runs") -> Report:
    groups = [dataclasses.replace(run, group=i) for i, run in enumerate(runs)]
    return Report(title, groups, {run.name: run.summary.config for run in runs})


class Page(html.parser.HTMLParser):
    """The elements of a page: their tags, attributes and texts, with those of elements inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def attributes(self) -> list[tuple[str, str, str]]:
        """Tags, names and values."""
        return [(tag, name, x) for tag, names in self.elements for name, x in names.items()]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def close(self) -> None:
        super().close()
        assert not self._open, f"{self._open} have no end"
