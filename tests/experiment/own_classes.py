"""A user's own classes of every kind, shown in docs/your_own_classes.md; no part of the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mtfrun import data, decoding, experiment, layers, models, mtf, optim, training
from mtfrun.models import moe, transformer


class PairsOfIds(models.TextModel):
    """Predicts each id from the preceding one, by a table of logits."""

    optional_features = ()

    def __init__(self, mesh: mtf.Mesh, vocabulary_size: int) -> None:
        super().__init__()
        self.vocab = mtf.Dimension("vocab", vocabulary_size)
        self._previous = mtf.Dimension("previous", vocabulary_size)
        self.table = mtf.Variable(mesh, [self._previous, self.vocab])

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        targets = features["targets"]
        length = targets.shape.get_dim_by_name("length")
        return self._after(mtf.shift(targets, 1, length, wrap=False))

    def target_weights(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        return mtf.to_float(mtf.not_equal(features["targets"], 0))

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> models.Loss:
        logits, weights = self.logits(features), self.target_weights(features)
        nats = mtf.sparse_softmax_cross_entropy(logits, features["targets"], self.vocab)
        total, weight = mtf.reduce_sum(nats * weights), mtf.reduce_sum(weights)
        return models.Loss(total, weight, {"loss": models.Metric(total, weight)})

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> decoding.Decoder:
        return decoding.Decoder(lambda ids, position, state: (self._after(ids), state), ())

    def _after(self, ids: mtf.Tensor) -> mtf.Tensor:
        return mtf.gather(self.table, ids, self._previous)


@dataclasses.dataclass(frozen=True)
class Counting(data.TextData):
    """The numbers from 0 to 99, one per row."""

    vocabulary = data.ByteVocabulary()

    length: int = 4

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return {"targets": data.ids_shape(self.length)}

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def train(self, batch: int, *, seed: int, host: data.Host = data.ONLY_HOST) -> data.Batches:
        return data.Batches([NumberRows(self)], batch, seed=seed, host=host)

    def evaluation(self, batch: int, *, split: str) -> Iterator[data.Batch]:
        return data.every_row(NumberRows(self), batch)


class NumberRows(data.Rows):
    """The rows of `Counting`."""

    def __init__(self, counting: Counting) -> None:
        encode, end = counting.vocabulary.encode, counting.vocabulary.end_id
        rows = [np.append(encode(str(number)), end) for number in range(100)]
        self._targets = data.pad_rows(rows, len(rows), counting.length)

    def __len__(self) -> int:
        return len(self._targets)

    def take(self, selection: data.Selection) -> data.Batch:
        return {"targets": self._targets[selection.rows]}


class Sums(data.Source):
    """Texts such as "7 + 8 = 15", for all pairs of numbers below 100."""

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "validation")

    def examples(self, split: str) -> Iterator[data.Example]:
        for a in range(100):
            for b in range(100):
                if (split == "validation") == ((a + b) % 10 == 0):
                    yield data.Example({"text": f"{a} + {b} = {a + b}".encode()})

    def fingerprint(self, split: str) -> object:
        return [split, 1]  # another number when `examples` changes


@dataclasses.dataclass(frozen=True)
class Digits(experiment.Evaluator):
    """The share of outputs that are digits, one or more."""

    prompts: Sequence[str] = ("1", "2")

    def __call__(self, context: experiment.EvaluationContext) -> experiment.EvaluationResult:
        prompts = [prompt.encode() for prompt in self.prompts]
        records = self.experiment.inference.records(prompts, context.progress)
        correct = [record.texts[0].isdecimal() for record in records]
        return experiment.EvaluationResult(metrics={"digits": sum(correct) / len(correct)})


class Lengths(experiment.Inference):
    """Returns the lengths of texts."""

    def read(self, source: experiment.Source) -> Sequence[bytes]:
        return source.texts()

    def records(
        self, inputs: Sequence[bytes], progress: experiment.Progress | None = None
    ) -> list[experiment.Record]:
        return [experiment.Record({"length": len(text)}, [str(len(text))]) for text in inputs]


class StopBelow(training.Action):
    """Ends training once the loss is below a threshold."""

    def __init__(self, loss: float, every_steps: int = 1) -> None:
        self.loss = loss
        self.every_steps = every_steps

    def __call__(self, context: training.ActionContext) -> None:
        loss = context.values.get("loss")
        if loss is not None and loss < self.loss:
            context.note(f"step {context.step}: the loss is {loss:.3f}")
            context.summaries.scalars({"stopped_at": loss}, context.step)
            context.request_stop(f"the loss is below {self.loss}")


class Signum(optim.SlotOptimizer):
    """Moves every parameter by the learning rate; Bernstein et al. 2018, arXiv:1802.04434.

    The direction is the sign of a moving average of the gradients, algorithm 2.
    """

    def __init__(self, learning_rate: float | optim.Schedule, beta: float = 0.9) -> None:
        super().__init__(learning_rate, learning_rate_factors=None)
        self._beta = beta

    def slot_shapes(self, variable: mtf.Variable) -> dict[str, mtf.Shape]:
        return {"momentum": variable.shape}

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        learning_rate = self.learning_rate(step)
        values = {}
        for path, variable in self.variables.items():
            gradient, slot = gradients[path], self.slots[path]["momentum"]
            assert gradient is not None, f"{path} has no gradient"
            momentum = mtf.read_variable(slot) * self._beta + gradient * (1.0 - self._beta)
            values[variable] = mtf.read_variable(variable) - learning_rate * mtf.sign(momentum)
            values[slot] = momentum
        return values


class SquaredRelu(transformer.Sublayer):
    """relu(x * wi)^2 * wo; So et al. 2021, arXiv:2109.08668, section 3."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        d_ff: int = 32,
    ) -> None:
        super().__init__()
        self._d_model = d_model
        self._d_ff = mtf.Dimension("d_ff", d_ff)
        scale = mtf.VarianceScaling()
        self.wi = mtf.Variable(
            mesh, [d_model, self._d_ff], scale([d_model], [self._d_ff]), dtypes.master
        )
        self.wo = mtf.Variable(
            mesh, [self._d_ff, d_model], scale([self._d_ff], [d_model]), dtypes.master
        )

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        wi, wo = mtf.cast(self.wi, x.dtype), mtf.cast(self.wo, x.dtype)
        hidden = mtf.relu(mtf.einsum([x, wi], reduced_dims=[self._d_model]))
        return mtf.einsum([mtf.square(hidden), wo], reduced_dims=[self._d_ff])


@dataclasses.dataclass(frozen=True)
class SigmoidGate:
    """Sends a token to its best expert, weighted by a sigmoid that other experts do not change."""

    temperature: float = 1.0

    def __call__(self, logits: mtf.Tensor, context: moe.GateContext) -> moe.Routing:
        group, experts, _ = context.dims
        gates = mtf.sigmoid(logits * (1.0 / self.temperature))
        gate, expert = mtf.top_1(gates, experts)
        mask, tokens = mtf.one_hot(expert, experts), context.nonpadding()
        if tokens is not None:
            mask = mask * tokens
        loss = moe.load_balancing_loss(mask, mtf.softmax(logits, experts), group, experts)
        choices = moe.dispatch_in_order([moe.Candidate(expert, gate, mask)], context)
        return moe.make_routing(choices, gates, loss, context, logits=logits)

    def experts_per_token(self, num_experts: int, capacity_factor: float) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class SublayerScales(layers.Adapter):
    """Multiplies what sublayers add by trained factors; after Liu et al. 2022, arXiv:2205.05638."""

    def attach(self, root: mtf.Module) -> None:
        for layer in root.named_modules().values():
            if isinstance(layer, transformer.TransformedLayer):
                layer.adapter = SublayerScale(layer.mesh, layer.d_model)


class SublayerScale(mtf.Module):
    """x * scale, which begins with 1."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension) -> None:
        super().__init__()
        self.scale = mtf.Variable(mesh, [d_model], mtf.initializers.Ones())

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        return x * mtf.cast(self.scale, x.dtype)
