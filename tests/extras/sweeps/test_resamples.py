"""Intervals of one trained model over the examples that it has decoded."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

from mtfrun.extras.sweeps.analysis.comparison import Measured, compare
from mtfrun.extras.sweeps.analysis.statistics import interval
from mtfrun.extras.sweeps.analysis.table_formats import table_columns, table_notes
from mtfrun.extras.sweeps.resamples import NUM_SAVED, Resamples, resample_decodes
from mtfrun.extras.sweeps.result import Results, RunResult
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow
from mtfrun.metrics.task_metrics import bleu, chrf, exact_match

STEP = 1
KEEPS_ALL = {NUM_SAVED: "None"}
Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
METRICS: dict[str, Metric] = {"exact_match": exact_match, "bleu": bleu, "chrf": chrf}
WORDS = ["the", "a", "cat", "dog", "sits", "runs", "on", "under", "big", "small", "mat", "tree"]


def _texts(seed: int, number: int = 200) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(5, 12))) for _ in range(number)]


def _outputs(targets: list[str], seed: int, share: float) -> list[str]:
    """Returns the targets with a share of their words replaced, in half of the texts."""
    rng = np.random.default_rng(seed)

    def change(text: str) -> str:
        words = [str(rng.choice(WORDS)) if rng.random() < share else x for x in text.split()]
        return " ".join(words) if rng.random() < 0.5 else text

    return list(map(change, targets))


TARGETS = _texts(0)
OUTPUTS = {"greedy": _outputs(TARGETS, 1, 0.5), "beams": _outputs(TARGETS, 2, 0.4)}


def _run(directory: pathlib.Path, outputs: list[str]) -> pathlib.Path:
    (directory / "decodes").mkdir(parents=True)
    records = [
        {"split": "validation", "input": f"input {i}", "target": target, "output": output}
        for i, (target, output) in enumerate(zip(TARGETS, outputs, strict=True))
    ]
    # What `Samples` saves in the same file has no target.
    samples = [{"split": "validation", "input": "def ", "output": "x\u2028y"}]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in [*samples, *records]]
    (directory / "decodes" / f"eval_{STEP}.jsonl").write_text("".join(lines))
    return directory


def _resampled(directory: pathlib.Path, metric: str, outputs: list[str]) -> Resamples:
    value = METRICS[metric](TARGETS, outputs)[metric]
    resamples = resample_decodes(_run(directory, outputs), STEP, metric, value, KEEPS_ALL)
    assert resamples is not None
    return resamples


def _compared(directory: pathlib.Path, metric: str) -> Measured:
    sweep = Sweep(
        ["x.gin"],
        rows={"greedy": SweepRow(), "beams": SweepRow(bindings={"BEAMS": "4"})},
        seeds=[0],
        metric=metric,
        baseline="greedy",
    )
    Results(directory).write_sweep(sweep)
    for run in sweep.runs():
        outputs = OUTPUTS[run.row]
        result = RunResult(
            *(run.name, run.row, 0, run.values, "finished"),
            metrics=METRICS[metric](TARGETS, outputs),
            resamples=_resampled(directory / run.name, metric, outputs),
        )
        Results(directory / "results").write(result)
    _, row = compare(directory).rows
    return row.metrics[metric]


@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU(tokenize="intl")), ("chrf", CHRF())])
def test_the_paired_bootstrap_is_that_of_sacrebleu(
    name: str, metric: BLEU | CHRF, tmp_path: pathlib.Path
) -> None:
    measured = _compared(tmp_path, name)
    test = PairedTest(list(OUTPUTS.items()), {"metric": metric}, [TARGETS], test_type="bs")
    ((_, (_, expected)),) = [x for x in test()[1].items() if x[0] != "System"]
    assert isinstance(expected, Result)
    assert measured.mean.mean == pytest.approx(expected.score)
    assert measured.mean.low is not None and measured.mean.high is not None
    # Its percentiles are not interpolated.
    width = (measured.mean.high - measured.mean.low) / 2
    assert width == pytest.approx(expected.ci, rel=0.03)
    assert measured.difference.p == pytest.approx(expected.p_value, abs=0.002)
    assert measured.difference.examples == len(TARGETS)


def test_exact_match_is_resampled_too(tmp_path: pathlib.Path) -> None:
    measured = _compared(tmp_path, "exact_match")
    are_right = [np.equal(TARGETS, outputs) for outputs in OUTPUTS.values()]
    difference = are_right[1].astype(float) - are_right[0]
    assert measured.difference.mean == pytest.approx(difference.mean())
    assert measured.difference.low is not None and measured.difference.high is not None
    # The standard error of a mean of pairs.
    half_width = 1.96 * difference.std() / np.sqrt(len(TARGETS))
    width = (measured.difference.high - measured.difference.low) / 2
    assert width == pytest.approx(half_width, rel=0.1)
    outputs = zip(*OUTPUTS.values(), strict=True)
    assert measured.different_outputs == sum(a != b for a, b in outputs)


def test_the_table_names_the_examples_and_the_outputs_that_differ(tmp_path: pathlib.Path) -> None:
    measured = _compared(tmp_path, "bleu")
    comparison = compare(tmp_path)
    columns = table_columns(comparison)
    assert columns["outputs differ"] == ["-", str(measured.different_outputs)]
    assert " [" in columns["bleu ↑"][0] and " [" in columns["difference"][1]
    notes = " ".join(table_notes(comparison))
    assert "over 200 examples, by sacrebleu's paired bootstrap" in notes
    assert "no intervals" not in notes


def test_models_of_different_examples_are_not_paired(tmp_path: pathlib.Path) -> None:
    resamples = _resampled(tmp_path, "bleu", OUTPUTS["greedy"])
    assert resamples.pairs_with(dataclasses.replace(resamples, scores=[]))
    assert not resamples.pairs_with(dataclasses.replace(resamples, references="0"))
    low, high = interval(resamples.scores)
    assert low < bleu(TARGETS, OUTPUTS["greedy"])["bleu"] < high


def test_no_resamples_without_all_decodes_of_a_known_metric(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = _run(tmp_path, OUTPUTS["greedy"])
    value = bleu(TARGETS, OUTPUTS["greedy"])["bleu"]
    assert resample_decodes(directory, STEP, "bleu", value, {}) is None
    assert resample_decodes(directory, STEP, "bleu", value + 1, KEEPS_ALL) is None
    assert resample_decodes(directory, STEP, "loss", value, KEEPS_ALL) is None
    assert not capsys.readouterr().err
    assert resample_decodes(directory, STEP + 1, "bleu", value, KEEPS_ALL) is None
    assert "no interval over examples" in capsys.readouterr().err
