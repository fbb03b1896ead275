"""All variables that training changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.models.model import Model


class TrainState:
    """A model, the optimizer's slots, averages of the weights, and the number of finished steps.

    Args:
      model: its variables may be specifications without storage; they get their paths. Of a model
        with adapters only these are trained and saved.
      optimizer: not used for another model before.
      seed: seed of initial values and of random numbers in training; a run that is resumed has the
        checkpoint's, see `restore_seed`.
      frozen: regular expressions of variable paths that are not trained.
      average_decay: decay of moving averages of all variables that steps change in the model, the
        moving averages of batch normalisation included, see `optim.WeightAverage`; None for none.

    Raises:
      InputError: an expression matches no variable, or all of them.
      InputError: `average_decay` beside an optimizer with averages of its own.
    """

    def __init__(
        self,
        model: Model,
        optimizer: optim.Optimizer,
        mesh: mtf.Mesh,
        *,
        seed: int = 0,
        frozen: Sequence[str] = (),
        average_decay: float | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.mesh = mesh
        self.seed = seed
        self.step = mtf.Variable(mesh, [], dtype=tf.int64, name="step", trainable=False)
        mtf.assign_paths(model)
        named = model.named_variables()
        candidates = model.adapter_variables() if model.adapters else named
        trained = optim.trainable_variables(candidates, frozen)
        for path in named.keys() - trained.keys():
            named[path].freeze()
        self.trainable = mtf.shard_variables(trained)
        optimizer.init(self.trainable)
        self.average: optim.WeightAverage | None = None
        self._averages = optimizer.named_averages()
        changed = {**self.trainable, **mtf.shard_variables(model.updated_variables())}
        if average_decay is not None:
            if self._averages:
                who = f"{type(optimizer).__name__} has averages of the weights itself"
                raise InputError(f"average_decay={average_decay}: {who}: remove it")
            self.average = optim.WeightAverage(changed, average_decay)
            self._averages = self.average.named_averages()
        if self._averages:
            self._exchange = optim.exchange_function(changed, self._averages)

    def initialize(self) -> None:
        mtf.initialize(self.model, self.seed)
        mtf.initialize(
            {
                "optimizer": self.optimizer.named_slots(),
                "averages": self.named_averages(),
                "step": self.step,
            },
            self.seed,
        )

    def restore_seed(self, metadata: Mapping[str, Any]) -> None:
        """Sets the seed of a checkpoint's manifest.

        Random numbers must not change in the middle of a run, even if the configuration does.
        """
        self.seed = int(metadata.get("seed", self.seed))

    def named_variables(self) -> dict[str, mtf.Variable]:
        """Returns the variables of a checkpoint: model/..., optimizer/..., averages/..., step."""
        named = {f"model/{path}": v for path, v in self.model.saved_variables().items()}
        named |= {f"optimizer/{path}": v for path, v in self.optimizer.named_slots().items()}
        named |= {f"averages/{path}": v for path, v in self.named_averages().items()}
        return {**named, "step": self.step}

    def named_averages(self) -> dict[str, mtf.Variable]:
        """Returns the averages by their variable's path; empty without averages."""
        return self._averages

    @contextlib.contextmanager
    def swap_averages(self) -> Iterator[None]:
        """Puts the averages, if there are any, in the place of the model's weights in the block."""
        if not self._averages:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def storage(self) -> dict[str, tf.Variable]:
        return {path: variable.variable for path, variable in self.named_variables().items()}

    @property
    def finished_steps(self) -> int:
        return int(mtf.to_numpy(self.step))
