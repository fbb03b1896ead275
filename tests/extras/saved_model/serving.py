"""SavedModels of runs, and requests to them in a process without mtfrun."""

from __future__ import annotations

import base64
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.cli.command import environment, mtfrun_here, succeeded

_PROGRAM = pathlib.Path(__file__).with_name("rest_process.py")


def exported(model_dir: pathlib.Path, target: pathlib.Path, *flags: str) -> pathlib.Path:
    process = mtfrun_here(
        "export", f"--model_dir={model_dir}", f"--to={target}", "--format=saved_model", *flags
    )
    assert process.returncode == 0, process.stderr.decode()
    return target


def responses(
    directory: pathlib.Path, requests: Sequence[object], *modules: str
) -> list[dict[str, Any]]:
    process = subprocess.run(
        # Not in the repository, from which mtfrun could be imported.
        [sys.executable, str(_PROGRAM), str(directory), *modules],
        input="".join(json.dumps(request) + "\n" for request in requests).encode(),
        capture_output=True,
        cwd=directory,
        env=environment(),
        timeout=300,
    )
    assert process.returncode == 0, process.stderr.decode()
    return [json.loads(line) for line in process.stdout.splitlines()]


def as_json(prompt: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(prompt).decode()}


def lines_of(predictions: Sequence[dict[str, Any]], prompts: Sequence[bytes]) -> list[Any]:
    """Returns predictions of "decode" as the lines that `mtfrun decode` prints, without a step."""
    return [_line(x, prompt) for x, prompt in zip(predictions, prompts, strict=True)]


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


def _line(prediction: dict[str, Any], prompt: bytes) -> dict[str, Any]:
    outputs = [
        {"text": text, "score": score, "tokens": tokens, "finished": finished}
        for text, score, tokens, finished in zip(
            *(prediction[name] for name in ("outputs", "scores", "tokens", "outputs_finished")),
            strict=True,
        )
    ]
    names = ("output", "prompt_tokens", "truncated_tokens", "output_tokens", "finished")
    return {
        "prompt": prompt.decode("utf-8", "replace"),
        "outputs": outputs[: prediction["num_outputs"]],
        "valid_utf8": prediction["valid_utf8"],
        **{name: prediction[name] for name in names},
    }
