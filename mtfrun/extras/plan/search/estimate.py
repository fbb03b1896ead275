from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping

from mtfrun.extras.plan.profile import DeviceProfile
from mtfrun.extras.plan.program import FORWARDING, Operation, Program, Value

_ADJOINT = re.compile(r"adj_x = (true|false)")
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# Operations that touch no entries of their operands, or constants.
_FREE = {*FORWARDING, "IdentityN", "Const", "ReadVariableOp", "AssignVariableOp", "Yield"}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The seconds of a step on one device, while all devices are as busy.

    `product_secs` are of matrix products and convolutions, `operation_secs` of all other operations
    but collectives, which are by mesh axes, such as "data,model".
    """

    product_secs: float
    operation_secs: float
    collective_secs: Mapping[str, float]

    @property
    def secs(self) -> float:
        """The seconds of the whole step: nothing overlaps."""
        return self.product_secs + self.operation_secs + sum(self.collective_secs.values())


def estimate(program: Program, profile: DeviceProfile) -> Estimate:
    products = operations = 0.0
    collectives: dict[str, float] = collections.defaultdict(float)
    for operation, times in program.operations_of_step():
        if operation.collective is not None:
            secs = profile.network.secs(operation.collective, program.mesh)
            collectives[",".join(operation.collective.axes)] += times * secs
        elif flops := product_flops(operation):
            dtype = _DTYPES.get(operation.results[0].type.dtype, "float32")
            products += times * max(
                profile.product_secs(flops, dtype), profile.operations.secs(_bytes(operation))
            )
        else:
            operations += times * profile.operations.secs(_bytes(operation))
    return Estimate(products, operations, dict(collectives))


def product_flops(operation: Operation) -> int:
    """Returns the floating point operations of a matrix product or convolution, else 0."""
    count = _FLOPS.get(operation.name)
    return count(operation) if count else 0


def _einsum_flops(operation: Operation) -> int:
    equation = operation.equation
    if equation is None:
        return 0
    sizes: dict[str, int] = {}
    for letters, value in zip(equation, operation.operands, strict=False):
        sizes |= dict(zip(letters, value.type.sizes, strict=True))
    left, _, result = equation
    if not set(left) - set(result):
        return 0  # a multiplication by element
    return 2 * math.prod(sizes.values())


def _matrix_product_flops(operation: Operation) -> int:
    left = operation.operands[0].type.sizes
    adjoint = _ADJOINT.search(operation.attributes)
    contracted = left[-2 if adjoint and adjoint[1] == "true" else -1]
    return 2 * operation.results[0].type.num_elements * contracted


def _convolution_flops(filters: Value, output: Value) -> int:
    """Every output is a sum over the filter and the input channels."""
    height, width, channels, _ = filters.type.sizes
    return 2 * output.type.num_elements * height * width * channels


# The operands of gradients of convolutions are the input, the filter and the output's gradient; of
# the one that is computed there are only the sizes.
_FLOPS: dict[str, Callable[[Operation], int]] = {
    "Einsum": _einsum_flops,
    "BatchMatMulV2": _matrix_product_flops,
    "BatchMatMulV3": _matrix_product_flops,
    "Conv2D": lambda x: _convolution_flops(x.operands[1], x.results[0]),
    "Conv2DBackpropInput": lambda x: _convolution_flops(x.operands[1], x.operands[2]),
    "Conv2DBackpropFilter": lambda x: _convolution_flops(x.results[0], x.operands[2]),
}


def _bytes(operation: Operation) -> int:
    values = () if operation.name in _FREE else (*operation.operands, *operation.results)
    return sum(value.type.num_bytes for value in values)
