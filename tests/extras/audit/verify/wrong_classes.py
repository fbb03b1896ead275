"""Classes whose numbers depend on the mesh, each in another way: `audit verify` must find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun import decoding, models, mtf
from mtfrun.models import transformer
from tests.experiment.own_classes import PairsOfIds, Signum, SquaredRelu


def _by_part(x: mtf.Tensor, dim: mtf.Dimension) -> tuple[mtf.Tensor, mtf.Dimension]:
    """Returns x with two dimensions in the place of one, of which the second is a device's part."""
    parts = mtf.Dimension(f"{dim.name}_parts", x.mesh.num_splits(dim))
    part = mtf.Dimension(f"{dim.name}_part", dim.size // parts.size)
    return mtf.replace_dimensions(x, dim, [parts, part]), part


class WrongLayer(SquaredRelu):
    """Its output is right; the gradient is multiplied by the number of parts of d_ff."""

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        return super().__call__(_with_factor(x, x.mesh.num_splits(self._d_ff)), call)


class WrongLoss(PairsOfIds):
    """Its logits are multiplied by the number of parts of the batch."""

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        targets = features["targets"]
        batch = targets.shape.get_dim_by_name("batch")
        return super().logits(features) * float(targets.mesh.num_splits(batch))


class WrongInitialValues(PairsOfIds):
    """Its table begins with the number of devices."""

    def __init__(self, mesh: mtf.Mesh, vocabulary_size: int) -> None:
        super().__init__(mesh, vocabulary_size)
        constant = mtf.initializers.Constant(float(mesh.size))
        self.table = mtf.Variable(mesh, self.table.shape, constant)


class WrongDecodes(PairsOfIds):
    """Decodes the most likely id on one device, and the least likely one on several."""

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> decoding.Decoder:
        sign = -1.0 if features["targets"].mesh.is_distributed else 1.0
        return decoding.Decoder(lambda ids, position, state: (self._after(ids) * sign, state), ())


class WrongEvaluation(PairsOfIds):
    """Its logits without training lack the mean over each device's part of the batch."""

    _is_training = False

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> models.Loss:
        self._is_training = training
        loss = super().loss(features, training=training, key=key)
        self._is_training = False
        return loss

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        logits = super().logits(features)
        if self._is_training:
            return logits
        batch = logits.shape.get_dim_by_name("batch")
        by_part, part = _by_part(logits, batch)
        centred = by_part - mtf.reduce_mean(by_part, reduced_dim=part)
        return mtf.replace_dimensions(centred, centred.shape.dims[:2], batch)


class WrongSmallUpdates(Signum):
    """Ignores gradients below a threshold that depends on the number of devices."""

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        def large(g: mtf.Tensor) -> mtf.Tensor:
            least = 1e-3 * (g.mesh.size - 1)
            return mtf.where(mtf.less(mtf.abs(g), least), 0.0, g)

        return super().update(
            {path: large(g) for path, g in gradients.items() if g is not None}, step
        )


class WrongUpdates(Signum):
    """Moves by the learning rate times the number of devices."""

    def update(
        self, gradients: Mapping[str, mtf.Tensor | None], step: mtf.Tensor
    ) -> dict[mtf.Variable, mtf.Tensor]:
        values = super().update(gradients, step)
        for variable in self.variables.values():
            before = mtf.read_variable(variable)
            values[variable] = before + (values[variable] - before) * float(variable.mesh.size)
        return values


def _with_factor(x: mtf.Tensor, factor: int) -> mtf.Tensor:
    """Returns x, whose gradient is multiplied by `factor`."""

    def gradient(
        xs: Sequence[mtf.Tensor], ys: Sequence[mtf.Tensor], grads: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        return [grads[0] * float(factor)]

    return mtf.custom_gradient(lambda y: y * 1.0, gradient, [x])


class MeanOverPart(SquaredRelu):
    """Adds the mean over a device's part of the batch."""

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        y = super().__call__(x, call)
        by_part, part = _by_part(y, x.shape.get_dim_by_name("batch"))
        centred = by_part - mtf.reduce_mean(by_part, reduced_dim=part)
        return mtf.replace_dimensions(centred, centred.shape.dims[:2], x.shape[0])


class NormOverShard(SquaredRelu):
    """Divides by the root mean square over a device's part of d_ff."""

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        hidden = mtf.einsum([x, self.wi], reduced_dims=[self._d_model])
        by_part, part = _by_part(hidden, self._d_ff)
        size = mtf.reduce_mean(mtf.square(by_part), reduced_dim=part)
        by_part = by_part * mtf.rsqrt(size + 1e-6)
        hidden = mtf.replace_dimensions(by_part, by_part.shape.dims[-2:], self._d_ff)
        return mtf.einsum([mtf.relu(hidden), self.wo], reduced_dims=[self._d_ff])


class DropoutByDevice(SquaredRelu):
    """Draws with another key on each number of devices."""

    def __call__(self, x: mtf.Tensor, call: transformer.SequenceCall) -> mtf.Tensor:
        y = super().__call__(x, call)
        if not call.training:
            return y
        key = call.key_of(self).fold_in(x.mesh.size)
        return mtf.dropout(y, call.training, rate=0.5, key=key)
