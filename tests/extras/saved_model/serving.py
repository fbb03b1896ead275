"""SavedModels of runs, and requests to them in a process without mtfrun."""

from __future__ import annotations

import pathlib
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tests.cli.command import environment, mtfrun_here, succeeded

Request: TypeAlias = tuple[str, Mapping[str, Any]]
"""The name of a signature, and its inputs by name."""

_PROGRAM = """
import importlib, pickle, sys
import tensorflow as tf
sys.modules["mtfrun"] = None  # importing it fails
directory, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
model, answers = tf.saved_model.load(directory), []
for name, inputs in pickle.load(sys.stdin.buffer):
    signature = model.signatures[name]
    types = {x.name: x.dtype for x in signature.structured_input_signature[1].values()}
    try:
        outputs = signature(**{n: tf.constant(x, types[n]) for n, x in inputs.items()})
        answers.append({n: x.numpy() for n, x in outputs.items()})
    except tf.errors.OpError as error:
        answers.append(str(error))
pickle.dump(answers, sys.stdout.buffer)
"""


def exported(model_dir: pathlib.Path, target: pathlib.Path, *flags: str) -> pathlib.Path:
    process = mtfrun_here(
        "export", f"--model_dir={model_dir}", f"--to={target}", "--format=saved_model", *flags
    )
    assert process.returncode == 0, process.stderr.decode()
    return target


def responses(directory: pathlib.Path, requests: Sequence[Request], *modules: str) -> list[Any]:
    """Returns the outputs by name for each request, or the text of an error."""
    process = subprocess.run(
        # Not in the repository, from which mtfrun could be imported.
        [sys.executable, "-c", _PROGRAM, str(directory), *modules],
        input=pickle.dumps(list(requests)),
        capture_output=True,
        cwd=directory,
        env=environment(),
        timeout=300,
    )
    assert process.returncode == 0, process.stderr.decode()
    answers: list[Any] = pickle.loads(process.stdout)
    return answers


def decoded(
    model_dir: pathlib.Path, file: pathlib.Path, prompts: Sequence[bytes], *flags: str
) -> list[Any]:
    """Returns what `mtfrun decode` prints for the prompts, on one device."""
    file.write_bytes(b"".join(prompt + b"\n" for prompt in prompts))
    mesh = ["--gin.MESH_SHAPE='data:1,model:1'"]
    lines = succeeded(
        mtfrun_here("decode", f"--model_dir={model_dir}", f"--input={file}", *mesh, *flags)
    )
    for line in lines:
        del line["step"]
    return lines


def lines_of(outputs: Mapping[str, np.ndarray], prompts: Sequence[bytes]) -> list[Any]:
    """Returns outputs of "decode" as the lines that `mtfrun decode` prints, without a step."""
    columns = {name: array.tolist() for name, array in outputs.items()}
    rows = [{name: x[i] for name, x in columns.items()} for i in range(len(prompts))]
    return [_line(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]


def _line(row: dict[str, Any], prompt: bytes) -> dict[str, Any]:
    outputs = [
        {"text": text.decode(), "score": score, "tokens": tokens, "finished": finished}
        for text, score, tokens, finished in zip(
            *(row[name] for name in ("outputs", "scores", "tokens", "outputs_finished")),
            strict=True,
        )
    ]
    names = ("valid_utf8", "prompt_tokens", "truncated_tokens", "output_tokens", "finished")
    return {
        "prompt": prompt.decode("utf-8", "replace"),
        "output": row["output"].decode(),
        "outputs": outputs[: row["num_outputs"]],
        **{name: row[name] for name in names},
    }
