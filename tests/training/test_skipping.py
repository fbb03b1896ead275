"""`on_nan = "skip"` leaves out exactly the updates that are not finite."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Batch, Batches
from mtfrun.models import NonFiniteError
from mtfrun.models.model import Loss
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, TrainOptions, TrainState, train_steps_function
from mtfrun.training.curves import SKIPPED_STEPS
from mtfrun.training.hooks.finite import MOST_SKIPPED_IN_A_ROW
from mtfrun.training.options import SKIP, StepOptions
from tests.layouts import ONE_DEVICE
from tests.training.toy_model import Bigram, Sequences
from tests.training.toy_run import LAYOUT, curve, parameters, toy_train

IN_LOSS, IN_GRADIENT = 14, 15  # ids that poison a batch
# The variable with a NaN in the last entry of its gradient: on one device of a mesh alone.
NAMED = "model/hidden"


class Poisoned(Bigram):
    """`Bigram`, whose loss is NaN in a batch with one id, and a gradient in one with another."""

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        loss = super().loss(features, training=training, key=key)
        targets = features["targets"]
        nan = mtf.where(mtf.equal(targets, IN_LOSS), float("nan"), mtf.zeros_like(loss.total))
        total = loss.total + mtf.reduce_sum(nan)
        is_poisoned = mtf.to_float(mtf.reduce_any(mtf.equal(targets, IN_GRADIENT)))
        return loss._replace(total=total + self._zero(is_poisoned))

    def _zero(self, is_poisoned: mtf.Tensor) -> mtf.Tensor:
        """Returns 0; the last entry of the gradient of `hidden` is NaN where `is_poisoned` is 1."""
        last = np.zeros([self.d_model.size, self.d_ff.size], bool)
        last[-1, -1] = True
        place = mtf.import_tf_tensor(is_poisoned.mesh, last, self.hidden.shape)

        def gradients(
            inputs: Sequence[mtf.Tensor], _outputs: object, _gradients: object
        ) -> list[mtf.Tensor | None]:
            hidden, poison = inputs
            chosen = mtf.logical_and(place, mtf.greater(poison, 0.0))
            return [mtf.where(chosen, float("nan"), mtf.zeros_like(hidden)), None]

        return mtf.custom_gradient(
            lambda hidden, poison: mtf.zeros_like(poison), gradients, [self.hidden, is_poisoned]
        )


def poisoned(ids: np.ndarray, places: Mapping[int, int]) -> np.ndarray:
    """Returns ids [steps, batch, length] below `IN_LOSS`, poisoned by `places`: ids by step."""
    ids = (ids - 1) % (IN_LOSS - 1) + 1
    for step, poison in places.items():
        ids[step, -1, -1] = poison
    return ids.astype(tf.int32.as_numpy_dtype)


STEPS = 6
OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "adam": lambda: optim.Adam(learning_rate=0.05),
    "adafactor": lambda: optim.Adafactor(learning_rate=0.05),
}
SPLIT_STORAGE = f"{LAYOUT};weights:data"
CASES = [(ONE_DEVICE, LAYOUT, "adam", 1, None)]
SLOW_CASES = [
    ("data:2,model:2", SPLIT_STORAGE, "adafactor", 2, 1.0),
    ("data:4,model:2", LAYOUT, "adam", 2, 1.0),
    ("data:4,model:1", SPLIT_STORAGE, "adam", 1, None),
]


def _features(mesh: mtf.Mesh, ids: np.ndarray) -> dict[str, mtf.Tensor]:
    shape = mtf.convert_to_shape(f"steps:{len(ids)};batch:16;length:6")
    return {"targets": mtf.import_tf_tensor(mesh, ids, shape)}


@pytest.mark.parametrize(
    ("mesh_shape", "layout", "optimizer", "microbatches", "clip_norm"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_a_skipped_update_is_one_that_was_left_out(
    mesh_shape: str, layout: str, optimizer: str, microbatches: int, clip_norm: float | None
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    state = TrainState(Poisoned(mesh), OPTIMIZERS[optimizer](), mesh, seed=7, average_decay=0.9)
    run = train_steps_function(
        state, StepOptions(microbatches=microbatches, clip_norm=clip_norm, on_nan=SKIP)
    )
    clean = poisoned(np.random.default_rng(0).integers(1, 14, (STEPS, 16, 6)), {})
    places = {2: IN_LOSS, 4: IN_GRADIENT}

    def count(number: int) -> mtf.Tensor:
        return mtf.constant(mesh, number, dtype=tf.int32)

    state.initialize()
    initial = parameters(state)
    record = mtf.to_numpy(run(_features(mesh, poisoned(clean, places)), count(STEPS)))
    values = parameters(state)
    assert record.skipped.tolist() == [0, 0, 1, 0, 1, 0]
    gradient = list(state.trainable).index(NAMED.removeprefix("model/"))
    first_bad = record.non_finite_gradient[[0, 1, 3, 4, 5]].tolist()
    assert first_bad == [0, 0, 0, gradient + 1, 0]

    # The same program, without the poisoned batches; only the step is counted.
    for path, variable in state.named_variables().items():
        mtf.assign(variable, mtf.import_tf_tensor(mesh, initial[path], variable.shape))
    for step in range(STEPS):
        if step in places:
            mtf.assign(state.step, mtf.constant(mesh, step + 1, dtype=tf.int64))
        else:
            later = np.roll(clean, -step, axis=0)
            run(_features(mesh, later), count(1))
    expected = parameters(state)
    assert {p for p in values if values[p].tobytes() != expected[p].tobytes()} == set()
    assert all(np.isfinite(value).all() for value in values.values())


class _InOrder(Batches):
    """Batches of given ids [steps, batch, length], in their order, endlessly."""

    def __init__(self, ids: np.ndarray):
        super().__init__([Sequences(ids.reshape(-1, ids.shape[-1]))], ids.shape[1], seed=0)
        self._batches = ids

    def __next__(self) -> Batch:
        index = self.position // self.batch % len(self._batches)
        super().__next__()
        return {"targets": self._batches[index]}

    def __iter__(self) -> Iterator[Batch]:
        return self


def _data(places: Mapping[int, int]) -> _InOrder:
    """Returns batches, poisoned at the steps of `places`, counted from 1."""
    ids = np.random.default_rng(0).integers(1, 14, (40, 8, 6))
    return _InOrder(poisoned(ids, {step - 1: poison for step, poison in places.items()}))


def _options(train_steps: int, on_nan: str, log_every_steps: int = 2) -> TrainOptions:
    return TrainOptions(
        train_steps,
        iterations_per_loop=3,
        log_every_steps=log_every_steps,
        checkpoints=CheckpointOptions(every_steps=5, max_to_keep=None),
        on_nan=on_nan,
    )


PLACES = {3: IN_LOSS, 4: IN_GRADIENT, 5: IN_LOSS, 9: IN_GRADIENT}


class Whole(NamedTuple):
    """A run of 10 steps, poisoned at PLACES, its last values and what it has printed."""

    run: pathlib.Path
    values: dict[str, np.ndarray]
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = tmp_path_factory.mktemp("whole")
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        state, _ = toy_train(str(run), _options(10, "skip"), model=Poisoned, data=_data(PLACES))
    return Whole(run, parameters(state), stream.getvalue())


def test_skipped_steps_are_counted_on_the_line_in_the_curve_and_in_the_manifest(
    whole: Whole,
) -> None:
    lines = whole.printed.splitlines()
    assert "step 3: the loss is not finite, its update was skipped" in whole.printed
    skipped = f"step 9: the gradient of {NAMED} is not finite, its update was skipped"
    assert skipped in whole.printed
    assert "skipped 3" in next(line for line in lines if line.startswith("step 8/"))
    assert curve(str(whole.run), SKIPPED_STEPS) == {2: 0, 4: 2, 6: 3, 8: 3, 10: 4}
    losses = curve(str(whole.run))
    assert np.isfinite(list(losses.values())).all()
    assert 4 not in losses, "both steps of the window were skipped"
    manifest = RunDirectory(whole.run).checkpoints().verify(10)
    assert manifest.metadata["skipped_steps"] == 4
    report = json.loads((whole.run / "nan_step_9.json").read_text())
    assert report["gradient"] == NAMED and len(report["rows"]["targets"]) == 8
    assert all(np.isfinite(value).all() for value in whole.values.values())


@pytest.mark.slow
def test_an_interrupted_run_counts_the_same(whole: Whole, tmp_path: pathlib.Path) -> None:
    for last in (4, 10):
        options = _options(last, "skip")
        halves, _ = toy_train(str(tmp_path), options, model=Poisoned, data=_data(PLACES))
    values = parameters(halves)
    assert all(values[path].tobytes() == value.tobytes() for path, value in whole.values.items())
    assert curve(str(tmp_path), SKIPPED_STEPS) == curve(str(whole.run), SKIPPED_STEPS)


@pytest.mark.slow
def test_too_many_in_a_row_end_training(tmp_path: pathlib.Path) -> None:
    """The series goes on over a resumption."""
    first = 4
    places = dict.fromkeys(range(first, 40), IN_GRADIENT)
    toy_train(str(tmp_path), _options(8, "skip"), model=Poisoned, data=_data(places))
    last = first + MOST_SKIPPED_IN_A_ROW
    expected = (
        rf"{MOST_SKIPPED_IN_A_ROW + 1} steps in a row was skipped, as the gradient of {NAMED} of "
        rf"step {last} is not finite; the last good checkpoint is step 10"
    )
    with pytest.raises(NonFiniteError, match=expected):
        toy_train(str(tmp_path), _options(40, "skip"), model=Poisoned, data=_data(places))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_stop_names_the_gradient_that_is_not_finite_on_one_device(
    tmp_path: pathlib.Path, mesh_shape: str
) -> None:
    with pytest.raises(NonFiniteError, match=f"the gradient of {NAMED} of step 7 is not finite"):
        toy_train(
            str(tmp_path),
            _options(10, "stop"),
            model=Poisoned,
            data=_data({7: IN_GRADIENT}),
            mesh_shape=mesh_shape,
        )
    report = json.loads((tmp_path / "nan_step_7.json").read_text())
    assert report["gradient"] == NAMED
    assert RunDirectory(tmp_path).checkpoints().steps() == [5]


def test_a_new_weight_that_is_not_finite_is_skipped(tmp_path: pathlib.Path) -> None:
    """The gradients are finite, the learning rate makes the weights infinite."""
    state, _ = toy_train(
        str(tmp_path), _options(3, "skip"), optimizer=optim.Sgd(learning_rate=3e38 * 100)
    )
    untrained = TrainState(Poisoned(state.mesh), optim.Sgd(0.1), state.mesh, seed=7)
    untrained.initialize()
    before, after = parameters(untrained), parameters(state)
    assert all(before[path].tobytes() == after[path].tobytes() for path in before if path != "step")
    assert after["step"] == 3
