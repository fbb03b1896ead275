from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.plan.plan import Plan
from mtfrun.extras.plan.profile import DeviceProfile, curve_secs
from mtfrun.extras.plan.program import FORWARDING, Operation, Program, Value
from mtfrun.extras.plan.search.candidates import BATCHES, Candidate
from mtfrun.mtf.placement.layout import SLOTS, WEIGHTS

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
        touching_secs = times * curve_secs(profile.operations, _bytes(operation))
        if operation.collective is not None:
            secs = profile.collective_secs(operation.collective, program.mesh)
            collectives[",".join(operation.collective.axes)] += times * secs
        elif flops := product_flops(operation):
            dtype = _DTYPES.get(operation.results[0].dtype, "float32")
            products += max(times * profile.product_secs(flops, dtype), touching_secs)
        else:
            operations += touching_secs
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
        sizes |= dict(zip(letters, value.sizes, strict=True))
    left, _, result = equation
    if not set(left) - set(result):
        return 0  # a multiplication by element
    return 2 * math.prod(sizes.values())


def _matrix_product_flops(operation: Operation) -> int:
    left = operation.operands[0].sizes
    adjoint = _ADJOINT.search(operation.attributes)
    contracted = left[-2 if adjoint and adjoint[1] == "true" else -1]
    return 2 * operation.results[0].num_elements * contracted


def _convolution_flops(filters: Value, output: Value) -> int:
    """Every output is a sum over the filter and the input channels."""
    height, width, channels, _ = filters.sizes
    return 2 * output.num_elements * height * width * channels


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
    return sum(value.num_bytes for value in values)


# Errors of DTensor, or of a layer, that has no program for a layout.
_WITHOUT_PROGRAM = (InputError, tf.errors.OpError, ValueError)
# The number of fastest layouts for which other settings are tried as well.
_VARIED = 4


@dataclasses.dataclass(frozen=True)
class Option:
    """A candidate that was planned; `state_bytes` of `peak_bytes` are variables."""

    candidate: Candidate
    estimate: Estimate
    peak_bytes: int
    state_bytes: int

    def __str__(self) -> str:
        parts = self.estimate
        sending = "".join(
            f", {secs * 1e3:,.1f} sending over {axes}"
            for axes, secs in parts.collective_secs.items()
        )
        return (
            f"{self.candidate}: {parts.secs * 1e3:,.1f} ms a step "
            f"({parts.product_secs * 1e3:,.1f} products, {parts.operation_secs * 1e3:,.1f} other "
            f"operations{sending}), {self.peak_bytes:,} bytes on each device"
        )

    def fits(self, device_memory: int | None) -> bool:
        """None stands for any memory."""
        return device_memory is None or self.peak_bytes <= device_memory


@dataclasses.dataclass
class Search:
    """Plans candidates and ranks them by the estimated time of a step, within the memory.

    The settings that save memory are tried where they may help: slots and weights that are split
    over the axis of the batch for the fastest layouts; rematerialisation and more microbatches,
    which cost time, for those that do not fit without them. `plan` raises InputError or mtf's
    errors for candidates without a program, which `most`, the number of options, does not count.
    `note` takes a line about every candidate; `left` is how many more options may be planned, and
    `rejections` have the reasons by candidate.
    """

    plan: Callable[[Candidate], Plan]
    profile: DeviceProfile
    device_memory: int | None
    most: int = 40
    note: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.left = self.most
        self._options: dict[Candidate, Option] = {}
        self.rejections: dict[Candidate, str] = {}

    def __call__(self, layouts: Sequence[Candidate], max_microbatches: int) -> None:
        """Plans `layouts`, without settings that save memory, in order.

        A device's part of a batch can be split into `max_microbatches`.
        """
        reserved = min(self.left // 3, 3 * _VARIED)
        for layout in layouts:
            if self.left > reserved:
                self._option(layout)
        fastest = self._rank()
        for option in fastest[:_VARIED]:
            for candidate in _with_split_slots(option.candidate):
                self._option(candidate)
        for option in fastest:  # saves memory until the candidate fits, the cheapest way first
            smaller: Option | None = option
            while smaller is not None and not smaller.fits(self.device_memory):
                options = _smaller(smaller, self.device_memory or 0, max_microbatches)
                cheapest = next(options, None)
                smaller = None if cheapest is None else self._option(cheapest)

    @property
    def ranking(self) -> list[Option]:
        """The options that fit, the fastest first."""
        return [option for option in self._rank() if option.fits(self.device_memory)]

    @property
    def too_large(self) -> list[Option]:
        """The options that do not fit, the smallest first."""
        others = (option for option in self._rank() if not option.fits(self.device_memory))
        return sorted(others, key=lambda option: option.peak_bytes)

    def _rank(self) -> list[Option]:
        return sorted(self._options.values(), key=lambda option: option.estimate.secs)

    def _option(self, candidate: Candidate) -> Option | None:
        """Returns None if the candidate has no program, or enough have been planned."""
        if candidate in {*self._options, *self.rejections} or not self.left:
            return self._options.get(candidate)
        try:
            plan = self.plan(candidate)
        except _WITHOUT_PROGRAM as error:
            reason = [*str(error).strip().splitlines(), type(error).__name__][0]
            self.rejections[candidate] = reason
            self.note(f"{candidate}: no program: {reason}")
            return None
        self.left -= 1
        seconds = estimate(plan.program, self.profile)
        option = Option(candidate, seconds, plan.peak_bytes, plan.state_bytes)
        self._options[candidate] = option
        self.note(f"{option}{'; the best so far' if option in self.ranking[:1] else ''}")
        return option


def _with_split_slots(candidate: Candidate) -> Iterator[Candidate]:
    """Yields the candidate with slots, and with weights, that are split over the batch's axis."""
    rules = candidate.layout
    axis = next((rules[name] for name in BATCHES if name in rules), None)
    if axis is not None and not {SLOTS, WEIGHTS} & set(rules):
        for name in (SLOTS, WEIGHTS):
            layout = mtf.LayoutRules([*rules.items(), (name, axis)])
            yield dataclasses.replace(candidate, layout=layout)


def _smaller(option: Option, device_memory: int, max_microbatches: int) -> Iterator[Candidate]:
    candidate = option.candidate
    if option.state_bytes > device_memory / 2:
        yield from list(_with_split_slots(candidate))[::-1]
    if candidate.rematerialise is False:
        yield dataclasses.replace(candidate, rematerialise=True)
    mesh = {axis.name: axis.size for axis in candidate.mesh}
    parts = mesh.get(candidate.layout.get(BATCHES[0], ""), 1) * candidate.outer_batch
    if max_microbatches % (2 * candidate.microbatches * parts) == 0:
        yield dataclasses.replace(candidate, microbatches=2 * candidate.microbatches)
    yield from list(_with_split_slots(candidate))[::-1]
