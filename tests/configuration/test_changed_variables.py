"""Settings of recorded configurations that explain other variables."""

from __future__ import annotations

import pytest

from mtfrun.configuration.hyperparameters import changes_of_variables, values_of
from mtfrun.errors.differences import Change, changes

CONFIG = """
D_MODEL = {d_model}
DROPOUT_RATE = {dropout}
TRAIN_STEPS = {steps}
LEARNING_RATE = 0.1
experiment.Experiment.model = @transformer.DecoderOnly
experiment.Experiment.data = @data.LanguageModelData()
experiment.Training.optimizer = @optim.Adafactor()
experiment.Training.average_decay = {decay}
transformer.DecoderOnly.stack = @transformer.Stack()
transformer.Stack.d_model = %D_MODEL
transformer.Stack.dropout_rate = %DROPOUT_RATE
optim.Adafactor.learning_rate = @optim.CosineDecay()
optim.Adafactor.beta1 = {beta1}
optim.CosineDecay.total_steps = %TRAIN_STEPS
data.LanguageModelData.length = {length}
"""
SAME = {"d_model": 64, "dropout": 0.1, "steps": 10, "decay": None, "beta1": None, "length": 32}


def _text(**changed: object) -> str:
    return CONFIG.format(**{**SAME, **changed})


def test_values_are_compared_as_gin_writes_them() -> None:
    old, new = values_of("A = [1,2]\nB = 'x'\nC = 1"), values_of("A = [1, 2]\nB = 'y'\nD = %A")
    assert changes(old, new) == [
        Change(("B",), "'x'", "'y'"),
        Change(("C",), "1", None),
        Change(("D",), None, "%A"),
    ]


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"d_model": 128, "steps": 20}, ["D_MODEL"]),
        ({"length": 64, "steps": 20}, ["data.LanguageModelData.length"]),
        ({"beta1": 0.9, "decay": 0.99}, ["experiment.Training.average_decay", "optim.Adafactor"]),
        ({"steps": 20}, []),
    ],
)
def test_what_makes_the_variables_explains_them(
    changed: dict[str, object], names: list[str]
) -> None:
    found = changes_of_variables(_text(), _text(**changed))
    assert [change.name.removesuffix(".beta1") for change in found] == names
