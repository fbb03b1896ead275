"""Mistakes that people make: one line with the remedy, found before TensorFlow is imported."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest

from mtfrun.cli import main as program

QUICK = "--gin_file=runs/quickstart.gin"
# What follows "mtfrun", and a pattern of the remedy; NEW and RUN are --model_dir=..., see the test.
MISTAKES = {
    f"trian {QUICK} NEW": "did you mean 'train'",
    f"{QUICK} NEW": "write mtfrun train --gin_file=runs/quickstart.gin --model_dir=",
    "train runs/quickstart.gin NEW": "write --gin_file=runs/quickstart.gin",
    "runs/quickstart.gin": "no command 'runs/quickstart.gin'; there are train, ",
    "decode RUN 'Once upon'": "takes no words such as 'Once upon', only flags",
    "config diff runs/quickstart.gin": "mtfrun config diff runs/quickstart.gin /tmp/run",
    f"train {QUICK} --modle_dir=/tmp/x": "did you mean '--model_dir'",
    f"train {QUICK} NEW --num_processes=2": r"mtfrun launch -n N -- \.\.\.",
    "decode RUN --prompt": "--prompt needs a value",
    "decode RUN --prompt=x --temperature=-1": "--temperature=-1: .* least 0",
    "export RUN --to=/tmp/x --format=onnx": "choose one of .*tensorflow",
    "train NEW --gin_location_prefix=/none --gin_file=m.gin": "searched: .*/none",
    f"train {QUICK} NEW --gin.TRAIN_STEP=14": "'TRAIN_STEPS'",
    f"train {QUICK} NEW --gin.EVAL_SPLIT=test": "--gin\\.NAME=\"'text'\"$",
    f"train {QUICK} NEW --gin.Samples.prompts=a,b": "as in Python: .* \\[1, 2\\]",
    f"launch -n 2 -- train {QUICK} NEW --gin.SED=3": "did you mean 'SEED'",
    "train --gin_file=runs/quikstart.gin NEW": "did you mean 'runs/quickstart.gin'",
    "train --gin_file=binary.gin NEW": "not a gin file: .* a text such as runs/quickstart.gin",
    "train --gin_file=columns.csv NEW": "not a gin file: line 1: .* such as runs/quickstart.gin",
    "train --gin_file=/tmp NEW": "is a directory: name a file in it",
    "train --gin_file=models/lm_tiny.gin NEW": "write --gin_file=defaults.gin before",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_answered_with_its_remedy(
    typed: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "_run", None)  # which imports TensorFlow
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.gin").write_bytes(bytes(range(256)))
    (tmp_path / "columns.csv").write_text("input,target\n1,2\n")
    (tmp_path / "run").mkdir()
    command = typed.replace("NEW", "--model_dir=new").replace("RUN", "--model_dir=run")
    assert program.main(shlex.split(command)) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("mtfrun: error: ") and len(line) < 600
    assert re.search(MISTAKES[typed], line), line
    assert not (tmp_path / "new").exists()
