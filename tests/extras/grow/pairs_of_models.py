"""Models of gin files, and larger ones that grew from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment import Evaluation, Experiment, Logits
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import Settings
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.variables import GrownVariables

SMALL = {
    "NUM_LAYERS": 1,
    "D_MODEL": 16,
    "D_FF": 32,
    "NUM_HEADS": 4,
    "D_KV": 4,
    "SEQUENCE_LENGTH": 80,
}
# No size is a multiple of the small one's but for d_kv, whose rotary positions need one.
LARGE = {
    "NUM_LAYERS": 2,
    "D_MODEL": 40,
    "D_FF": 72,
    "NUM_HEADS": 6,
    "D_KV": 8,
    "SEQUENCE_LENGTH": 96,
}
MULTIPLES = {
    "NUM_LAYERS": 2,
    "D_MODEL": 32,
    "D_FF": 64,
    "NUM_HEADS": 8,
    "D_KV": 8,
    "SEQUENCE_LENGTH": 80,
}


@dataclasses.dataclass(frozen=True)
class Grown:
    """Two models on their data; `difference`: of the logits of some rows, of the largest."""

    old: Experiment
    new: Experiment
    variables: GrownVariables
    notes: Sequence[str]
    features: Mapping[str, np.ndarray]

    def difference(self) -> float:
        return _difference(*(Logits(x)(self.features) for x in (self.old, self.new)))

    def rounding(self) -> float:
        """Changes the last bit of all variables of the old model, and returns the difference."""
        before, rng = Logits(self.old)(self.features), np.random.default_rng(2)
        for variable in self.old.model.named_variables().values():
            value = mtf.to_numpy(variable)
            towards = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
            value = np.nextafter(value, towards)
            mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
        return _difference(before, Logits(self.old)(self.features))


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the largest difference of logits of the classes that both have, of the largest."""
    classes = min(before.shape[-1], after.shape[-1])
    before, after = before[..., :classes], after[..., :classes]
    return float(np.abs(before - after).max() / np.abs(before).max())


def grow_pair(
    files: Sequence[str],
    old: Mapping[str, object],
    new: Mapping[str, object],
    *,
    new_files: Sequence[str] | None = None,
    with_copies: bool = False,
) -> Grown:
    """Returns a model whose variables all have other values than at first, and a larger one."""
    before, evaluation = _build(files, old)
    after, _ = _build(files if new_files is None else new_files, new)
    rules = Rules(before.model, after.model, with_copies=with_copies)
    variables = GrownVariables.of(before.model, after.model, rules, seed=1)
    mtf.initialize(before.model, 0)
    _perturb(before)
    for path, variable in variables.new.items():
        source = variables.origins[path].source
        of_old = None if source is None else mtf.to_numpy(variables.old[source])
        value = variables.grow(path, of_old)
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
    batch = next(iter(before.data.evaluation_subset(2, 1, split=evaluation.split)))
    needed = next(x for x in before.model.logits_features if set(x) <= batch.keys())
    names = {*needed, *(before.model.optional_features or ())} & batch.keys()
    features = {name: batch[name] for name in names}
    return Grown(before, after, variables, list(rules.notes), features)


def _build(files: Sequence[str], macros: Mapping[str, object]) -> tuple[Experiment, Evaluation]:
    bindings = [(f"--gin.{name}", f"{name} = {value!r}") for name, value in macros.items()]
    with config.exclusive():
        Settings(["defaults.gin", *files], bindings).parse()
        return build()


def _perturb(experiment: Experiment) -> None:
    rng = np.random.default_rng(0)
    for path, variable in experiment.model.named_variables().items():
        value = mtf.to_numpy(variable)
        size = max(float(np.sqrt(np.mean(np.square(value)))), 0.3)
        value = value + 0.2 * size * rng.standard_normal(value.shape, np.float32)
        value = np.abs(value) if path.endswith("variance") else value
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
