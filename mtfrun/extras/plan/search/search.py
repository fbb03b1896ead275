from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.gin_values import override
from mtfrun.configuration.statements import macros_of, name_to_override
from mtfrun.display import progress
from mtfrun.display.formats import parse_size
from mtfrun.display.progress import waiting
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment, Training
from mtfrun.experiment.runs.opening import Settings, build
from mtfrun.extras.plan.plan import Plan, plan_training
from mtfrun.extras.plan.profile import DeviceProfile, curve_secs, find_profile
from mtfrun.extras.plan.program import FORWARDING, Operation, Program
from mtfrun.extras.plan.search.calibration import calibrate
from mtfrun.extras.plan.search.candidates import BATCHES, Candidate, dimensions_of, layouts
from mtfrun.files import atomic_open
from mtfrun.mtf.placement.layout import SLOTS, WEIGHTS
from mtfrun.training import TrainOptions

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
    for operation, times in program.body.runs():
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
    """Returns the floating point operations of a matrix product or convolution, else 0.

    The operands of gradients of convolutions are the input, the filter and the output's gradient;
    of the one that is computed there are only the sizes.
    """
    operands, results = operation.operands, operation.results
    match operation.name:
        case "Einsum" if (equation := operation.equation) and {*equation[0]} - {*equation[2]}:
            sizes: dict[str, int] = {}
            for letters, value in zip(equation, operands, strict=False):
                sizes |= zip(letters, value.sizes, strict=True)
            return 2 * math.prod(sizes.values())
        case "BatchMatMulV2" | "BatchMatMulV3":
            is_adjoint = "adj_x = true" in operation.attributes
            return 2 * results[0].num_elements * operands[0].sizes[-2 if is_adjoint else -1]
        case "Conv2D":
            filters, output = operands[1], results[0]
        case "Conv2DBackpropInput":
            filters, output = operands[1], operands[2]
        case "Conv2DBackpropFilter":
            filters, output = results[0], operands[2]
        case _:
            return 0
    return 2 * output.num_elements * math.prod(filters.sizes[:3])


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
    device_memory: float
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
            while smaller is not None and smaller.peak_bytes > self.device_memory:
                cheapest = next(_smaller(smaller, self.device_memory, max_microbatches), None)
                smaller = None if cheapest is None else self._option(cheapest)

    @property
    def ranking(self) -> list[Option]:
        """The options that fit, the fastest first."""
        return [option for option in self._rank() if option.peak_bytes <= self.device_memory]

    @property
    def too_large(self) -> list[Option]:
        """The options that do not fit, the smallest first."""
        others = (option for option in self._rank() if option.peak_bytes > self.device_memory)
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


def _smaller(option: Option, device_memory: float, max_microbatches: int) -> Iterator[Candidate]:
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


# Options that are printed in full.
_PRINTED = 5
_CANDIDATES = 40


def calibrate_devices(flags: argparse.Namespace) -> int:
    profile = calibrate(flags.devices, lambda line: print(line, file=sys.stderr, flush=True))
    with atomic_open(flags.profile) as file:
        file.write(profile.to_json() + "\n")
    print_lines(f"{flags.profile}: the profile of {profile.name}")
    return 0


def search_layouts(flags: argparse.Namespace) -> int:
    profile = find_profile(flags.profile, flags.devices)
    memory: float = profile.memory_bytes or math.inf
    if flags.device_memory is not None:
        memory = parse_size(flags.device_memory)
    settings = _Settings(flags)
    one = settings.training(settings.one_device())
    if one.experiment.model.reads_outer_batch and one.batch_size % 2 == 0:
        # With any size, so that its layout can be found.
        one = settings.training(settings.one_device(outer_batch=2))
    with waiting("planning a step on one device", "planned a step on one device"):
        plan_training(one, flags.program_dump)
    dimensions = dimensions_of(one)
    most = _CANDIDATES if flags.candidates is None else flags.candidates
    candidates = [
        settings.complete(candidate)
        for candidate in layouts(dimensions, flags.devices, settings.axes, most=2 * most)
    ]
    if not candidates:
        raise InputError(
            f"no dimension of the model can be split into parts for {flags.devices} devices: "
            "change the batch size, the sizes of the model or --devices"
        )

    def plan(candidate: Candidate) -> Plan:
        with waiting(f"planning {most - search.left + 1} of at most {most}: {candidate}"):
            return plan_training(settings.training(candidate), flags.program_dump)

    search, code = Search(plan, profile, memory, most=most, note=progress.note), 0
    try:
        search(candidates, one.batch_size)
    except SystemExit as stopped:  # by a signal
        code = int(stopped.code or 0)
        progress.note(f"stopped after {most - search.left} of at most {most} candidates")
    if flags.json:
        print(json.dumps(as_json(search, settings), allow_nan=False))
    else:
        print_lines(*as_lines(search, settings))
    return code


def as_json(search: Search, settings: _Settings) -> dict[str, Any]:
    def describe(option: Option) -> dict[str, Any]:
        return {
            **option.candidate.settings,
            "step_secs": option.estimate.secs,
            **dataclasses.asdict(option.estimate),
            "peak_bytes": option.peak_bytes,
            "state_bytes": option.state_bytes,
            "bindings": settings.bindings(option.candidate),
            "gin": settings.gin(option.candidate),
        }

    rejected = [{"candidate": str(x), "reason": why} for x, why in search.rejections.items()]
    return {
        "ranking": list(map(describe, search.ranking)),
        "too_large": list(map(describe, search.too_large)),
        "rejected": rejected,
    }


def as_lines(search: Search, settings: _Settings) -> list[str]:
    """Returns the best options, each with the lines of a gin file."""
    memory, ranking, too_large = search.device_memory, search.ranking, search.too_large
    limit = "" if memory == math.inf else f", {memory:,} bytes of memory on each device"
    lines = [f"devices: {search.profile.name}{limit}"]
    for number, option in enumerate(ranking[:_PRINTED], 1):
        lines += ["", f"{number}. {option}", *settings.gin(option.candidate)]
    more = f"{len(ranking[_PRINTED:])} more fit, {len(too_large)} need more memory"
    lines += ["", f"{more}, {len(search.rejections)} cannot be compiled; --json prints all"]
    if not ranking and too_large:
        lines.append(f"the one that needs the least memory: {too_large[0]}")
    return lines


class _Settings:
    def __init__(self, flags: argparse.Namespace):
        self._settings = Settings.of_flags(flags)
        bindings = self._settings.parse()
        parameters = {
            "mesh": "mtf.Mesh.shape",
            "layout": "mtf.Mesh.layout",
            "outer_batch": "experiment.Experiment.outer_batch",
            "microbatches": "training.TrainOptions.microbatches",
        }
        self._names = {n: [name_to_override(bindings, x)] for n, x in parameters.items()}
        # Models bind this name in different classes.
        macros = macros_of(bindings)
        sources = [b.source(macros) for b in bindings if b.parameter == "rematerialise"]
        rematerialised = {source.name: source.value for source in sources}
        self._names["rematerialise"] = [*rematerialised]
        config.override(mtf.Mesh)  # gin knows the classes from now on, if it did not
        config.override(TrainOptions)
        mesh = config.argument(mtf.Mesh, "shape", "data:1,model:1")
        self.axes = mtf.convert_to_shape(mesh).dimension_names
        self._configured = {
            "outer_batch": config.argument(Experiment, "outer_batch", 1),
            "microbatches": config.argument(TrainOptions, "microbatches", 1),
            "rematerialise": all(rematerialised.values()) if rematerialised else None,
        }

    def one_device(self, outer_batch: int = 1) -> Candidate:
        mesh = mtf.Shape([("data", 1)])
        return self.complete(Candidate(mesh, mtf.LayoutRules(), outer_batch))

    def complete(self, candidate: Candidate) -> Candidate:
        names = ("microbatches", "rematerialise")
        return dataclasses.replace(candidate, **{name: self._configured[name] for name in names})

    def training(self, candidate: Candidate) -> Training:
        lines = [(f"--gin_param={line}", line) for line in self.bindings(candidate)]
        bindings = [*self._settings.bindings, *lines]
        dataclasses.replace(self._settings, bindings=bindings).parse()
        with mtf.planned_meshes():
            return config.build(Training, *build())

    def bindings(self, candidate: Candidate) -> list[str]:
        """Returns the values of flags --gin_param that set up a candidate."""
        return [
            override(bound, value)
            for name, value in candidate.settings.items()
            if name not in self._configured or value != self._configured[name]
            for bound in self._names[name]
        ]

    def gin(self, candidate: Candidate) -> list[str]:
        bindings = self.bindings(candidate)
        names = (line.partition(" = ")[0].partition(".") for line in bindings)
        imports = [f"from mtfrun import {module}" for module, dot, _ in names if dot]
        registration = ["from __gin__ import dynamic_registration"] if imports else []
        return [*registration, *dict.fromkeys(imports), *bindings]
