"""lm-evaluation-harness judges imported models as it judges their folders by its model `hf`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pytest

from tests.cli.command import ROOT, environment, mtfrun_here

# Log-likelihoods, relative to the largest one of a request.
TOLERANCE = 1e-4
FORMS = ("gpt2", "llama", "t5")
Judgement: TypeAlias = tuple[dict[str, Any], list[Any]]
"""The results by task, and the responses to all requests."""

DOCUMENTS = [
    {"text": "The quick brown fox jumps.", "choices": [" over", " the dog", " many", " three?"]},
    {"text": "How many numbers are in the ", "choices": ["dog", "lazy fox", "three", "x"]},
    {"text": "Over the lazy dog", "choices": [".", " jumps over", " brown", "?"]},
    # Longer than the model's rows.
    {"text": "fox jumps many numbers over " * 12, "choices": [" a", " dog", " the lazy", "."]},
]


def _task(
    kind: str, text: str, target: str | int, *metrics: str, **settings: Any
) -> dict[str, Any]:
    metric_list = [{"metric": name} for name in metrics]
    task = {"output_type": kind, "doc_to_text": text, "doc_to_target": target, **settings}
    return {**task, "metric_list": metric_list}


STOPS = {"until": ["e", "zz"], "max_gen_toks": 12}
TASKS = {
    "choice": _task(
        "multiple_choice", "{{text}}", 1, "acc", "acc_norm", doc_to_choice="{{choices}}"
    ),
    "last_words": _task("loglikelihood", "{{text}}", "{{choices[1]}}", "perplexity", "acc"),
    "first_words": _task("loglikelihood", "", "{{text}}", "acc", target_delimiter=""),
    "texts": _task("loglikelihood_rolling", "", "{{text}}", "word_perplexity", "bits_per_byte"),
    "continued": _task(
        "generate_until", "{{text}}", "{{choices[0]}}", "exact_match", generation_kwargs=STOPS
    ),
}

needs_packages = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("lm_eval", "torch", "transformers")),
    reason="the extra interoperability",
)


def _python(directory: pathlib.Path, *arguments: str | pathlib.Path) -> str:
    """Returns what Python prints, without asking for anything in a network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(directory / "hf")}
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment(), **offline, "TOKENIZERS_PARALLELISM": "false"},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def _write_tasks(directory: pathlib.Path) -> None:
    tasks = directory / "tasks"
    tasks.mkdir()
    documents = tasks / "documents.json"
    documents.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(documents)}},
        "test_split": "test",
    }
    for name, task in TASKS.items():  # JSON is YAML
        (tasks / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **task}))


# One process, which imports torch or TensorFlow, for all models.
PROGRAM = """
import json, sys
from {module} import {name} as run
from lm_eval.__main__ import cli_evaluate
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    run()
    run = cli_evaluate
"""


def _judge(
    directory: pathlib.Path, module: str, name: str, models: Mapping[str, str]
) -> dict[str, Judgement]:
    """Returns the judgement of every form, by an entry point of a module."""
    commands = []
    for form, model in models.items():
        kind, _, arguments = model.partition(" ")
        flags = ["run", "--model", kind, "--model_args", arguments, "--batch_size", "3"]
        flags += ["--include_path", str(directory / "tasks"), "--device", "cpu", "--log_samples"]
        flags += ["--output_path", str(directory / name / form), "--tasks", ",".join(_tasks(form))]
        commands.append(flags)
    _python(directory, "-c", PROGRAM.format(module=module, name=name), json.dumps(commands))
    return {form: _read(directory / name / form, _tasks(form)) for form in models}


def _tasks(form: str) -> list[str]:
    # Outputs of `hf` are longer than the task's limit, by the length of the prompt.
    return [task for task in TASKS if (form, task) != ("t5", "continued")]


def _read(output: pathlib.Path, tasks: Sequence[str]) -> Judgement:
    (results,) = output.rglob("results_*.json")
    responses = []
    for task in tasks:
        (path,) = output.rglob(f"samples_{task}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        samples.sort(key=lambda sample: sample["doc_id"])
        responses += [_with_numbers(sample["resps"]) for sample in samples]
    return json.loads(results.read_text())["results"], responses


def _with_numbers(responses: Any) -> Any:
    """Returns nested lists with the numbers that lm_eval has written as texts."""
    if isinstance(responses, list):
        return [_with_numbers(response) for response in responses]
    try:
        return float(responses)
    except ValueError:
        return responses


def _assert_equal(ours: Any, theirs: Any) -> None:
    """Compares nested lists: numbers by their relative difference, all else exactly."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            _assert_equal(*pair)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, nan_ok=True)
    else:
        assert ours == theirs


@pytest.fixture(scope="module")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Judgement], ...]:
    """By form, ours and those of the folders."""
    directory = tmp_path_factory.mktemp("judged")
    _python(directory, "tests/extras/lm_eval/judged_models.py", directory, *FORMS)
    ours, theirs = {}, {}
    for form in FORMS:
        folder, run = directory / form, directory / f"run_{form}"
        imported = mtfrun_here("import", f"--from={folder}", f"--model_dir={run}")
        assert imported.returncode == 0, imported.stderr
        theirs[form] = f"hf pretrained={folder},dtype=float32"
        ours[form] = f"mtfrun model_dir={run}" + (",max_length=64" if form != "t5" else "")
    _write_tasks(directory)
    return (
        _judge(directory, "mtfrun.extras.lm_eval.harness", "main", ours),
        _judge(directory, "lm_eval.__main__", "cli_evaluate", theirs),
    )


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_scores_of_an_imported_model_are_those_of_its_folder(
    form: str, judgements: tuple[dict[str, Judgement], ...]
) -> None:
    ours, theirs = (by_form[form] for by_form in judgements)
    _assert_equal(ours[1], theirs[1])
    _assert_equal(ours[0], theirs[0])
