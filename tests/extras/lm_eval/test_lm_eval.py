"""lm-evaluation-harness judges imported models as it judges their folders by its model `hf`."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Collection
from typing import Any

import pytest

from tests.cli.command import ROOT, environment, mtfrun_here

# Log-likelihoods, relative to the largest one of a request.
TOLERANCE = 1e-4
# Positions of the language models.
LENGTH = "64"

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


def _judge(
    directory: pathlib.Path, program: str, model: str, tasks: Collection[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Returns the results by task, and the responses to all requests."""
    output = directory / program.replace(".", "_")
    flags = ["--tasks", ",".join(tasks), "--include_path", str(directory / "tasks")]
    flags += ["--output_path", str(output), "--log_samples", "--batch_size", "3"]
    flags += ["--device", "cpu"]
    name, _, arguments = model.partition(" ")
    _python(directory, "-m", program, "run", "--model", name, "--model_args", arguments, *flags)
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


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("form", ["gpt2", "llama", "t5"])
def test_scores_of_an_imported_model_are_those_of_its_folder(
    form: str, tmp_path: pathlib.Path
) -> None:
    folder, run = tmp_path / "folder", tmp_path / "run"
    length = "512" if form == "t5" else LENGTH
    _python(tmp_path, "tests/extras/lm_eval/judged_models.py", form, folder, length)
    imported = mtfrun_here("import", f"--from={folder}", f"--model_dir={run}")
    assert imported.returncode == 0, imported.stderr
    _write_tasks(tmp_path)
    tasks, limit = set(TASKS), f",max_length={LENGTH}"
    if form == "t5":
        # Outputs of `hf` are longer than the task's limit, by the length of the prompt.
        tasks, limit = tasks - {"continued"}, ""
    theirs = _judge(tmp_path, "lm_eval", f"hf pretrained={folder},dtype=float32", tasks)
    ours = _judge(
        tmp_path, "mtfrun.extras.lm_eval.harness", f"mtfrun model_dir={run}{limit}", tasks
    )
    _assert_equal(ours[1], theirs[1])
    _assert_equal(ours[0], theirs[0])
