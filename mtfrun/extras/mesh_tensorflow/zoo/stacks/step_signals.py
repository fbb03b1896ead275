"""What a Universal Transformer adds to its vectors before every step."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_choice, check_range
from mtfrun.layers import Layer, SinusoidPositions
from mtfrun.models.transformer.sublayer import SequenceCall

SINUSOID, TRAINED = "sinusoid", "trained"


class StepSignals(Layer):
    """Adds a vector of the step, and one of the position, to every vector.

    Dehghani et al. 2018, arXiv:1807.03819, equations 4 and 5: sines and cosines of the step, which
    counts from 1, and of the position.

    Args:
      num_steps: of the stack.
      steps: "sinusoid", "trained" for a table as in Mesh TensorFlow's UTLayerStack, or None.
      positions: whether there are vectors of positions, which in packed rows count from each
        document's first one.
      num_trained: how many steps, from the first on, have a trained vector; None for all.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        num_steps: int,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        steps: str | None = SINUSOID,
        positions: bool = True,
        num_trained: int | None = None,
    ) -> None:
        super().__init__()
        if steps is not None:
            check_choice("StepSignals.steps", steps, (SINUSOID, TRAINED))
        check_range("StepSignals.num_trained", num_trained, COUNT, optional=True)
        self._steps, self._positions = steps, positions
        self._dtype = dtypes.activation
        self._factor = d_model.size**0.5
        if positions or steps == SINUSOID:
            self.sinusoids = SinusoidPositions(mesh, num_steps, d_model, dtypes)
        if steps == TRAINED:
            self._rows = mtf.Dimension("steps", num_steps if num_trained is None else num_trained)
            initial = mtf.initializers.RandomNormal(d_model.size**-0.5)
            self.table = mtf.Variable(
                mesh, [self._rows, d_model], initial, dtypes.master, reduced_dims=()
            )

    def __call__(self, x: mtf.Tensor, step: int, call: SequenceCall) -> mtf.Tensor:
        """Returns x {..., d_model} with the signals of a step, which counts from 0."""
        if self._positions:
            positions = call.text_positions
            positions = call.positions(x) if positions is None else positions
            x = mtf.add(x, self.sinusoids(positions, call), output_shape=x.shape)
        if self._steps == SINUSOID:
            x = x + self.sinusoids(mtf.constant(x.mesh, step + 1), call)
        if self._steps == TRAINED and step < self._rows.size:
            x = x + mtf.cast(mtf.gather(self.table, step, self._rows) * self._factor, self._dtype)
        return x
