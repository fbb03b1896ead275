"""Reversible stacks, which train in memory independent of the number of blocks."""

from __future__ import annotations

from typing import Any, ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow.zoo.reversible_residuals import reversible_layers
from mtfrun.layers.recompute import collecting, differentiated_tensors
from mtfrun.models.transformer.residual_transforms import Residual
from mtfrun.models.transformer.stack import RunWithState, Stack
from mtfrun.models.transformer.sublayer import SequenceCall


class ReversibleStack(Stack):
    """A stack of two streams: x1, x2 = x2, x1 + sublayer(x2); the output is their sum.

    Gomez et al. 2017, arXiv:1707.04585, as Mesh TensorFlow's ReversibleLayerStack. Training stores
    only the last x1 and x2; the backward pass recomputes the inputs of one sublayer at a time from
    its outputs, at the cost of another forward pass. In bfloat16 they accumulate rounding errors.
    There is no loop over blocks (`scan_blocks`), and `rematerialise` has no effect.

    The `transforms` have no `Residual`, since the stack adds the outputs itself; their
    `activation_scale` measures these outputs.
    """

    can_scan: ClassVar[bool] = False

    def tie_blocks(self) -> None:
        super().tie_blocks()
        sublayers = [layer for block in self.blocks for layer in block.values()]
        if any(isinstance(getattr(x, name), Residual) for x in sublayers for name in x.names):
            raise InputError(
                "ReversibleStack adds residuals itself: leave Residual out of StackTransforms.layer"
            )

    def _run_blocks(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        """Returns the sum of both streams after each block, in training after the last."""
        if call.training:
            sublayers = [layer for block in self.blocks for layer in block.values()]
            functions = [collecting(layer, call) for layer in sublayers]
            x1, x2, collected = reversible_layers(x, x, functions, differentiated_tensors(call))
            if call.collector is not None:
                for inner_values in collected:
                    call.collector.add_all(inner_values)
            return [x1 + x2]
        x1 = x2 = x
        outputs = []
        for block in self.blocks:
            for layer in block.values():
                x1, x2 = x2, x1 + layer(x2, call)
            outputs.append(x1 + x2)
        return outputs

    def _run_blocks_with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        x1 = x2 = x
        next_state = []
        for block, block_state in zip(self.blocks, state, strict=True):
            results: dict[str, Any] = {}
            for name, layer in block.items():
                residual, results[name] = run(layer, x2, block_state[name], call)
                x1, x2 = x2, x1 + residual
            next_state.append(results)
        return x1 + x2, next_state
