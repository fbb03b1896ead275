from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.gin_values import override
from mtfrun.configuration.statements import Binding, macros_of, name_to_override
from mtfrun.display import progress
from mtfrun.display.formats import parse_size
from mtfrun.display.progress import waiting
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment, Training
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.extras.plan.plan import Plan, plan_training
from mtfrun.extras.plan.profile import DeviceProfile, shipped_profiles
from mtfrun.extras.plan.search.calibration import calibrate
from mtfrun.extras.plan.search.candidates import Candidate, dimensions_of, layouts
from mtfrun.extras.plan.search.search import Option, Rejection, Search
from mtfrun.files import atomic_open
from mtfrun.training import TrainOptions

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
    profile = _profile(flags)
    memory = profile.memory_bytes
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

    def note(result: Option | Rejection) -> None:
        is_best = result in search.ranking[:1]
        progress.note(f"{result}{'; the best so far' if is_best else ''}")

    search, code = Search(plan, profile, memory, most=most, note=note), 0
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
    return {
        "ranking": [_option_json(option, settings) for option in search.ranking],
        "too_large": [_option_json(option, settings) for option in search.too_large],
        "rejected": [
            {"candidate": str(rejection.candidate), "reason": rejection.reason}
            for rejection in search.rejections
        ],
    }


def _option_json(option: Option, settings: _Settings) -> dict[str, Any]:
    return {
        **option.candidate.settings,
        "step_secs": option.estimate.secs,
        **dataclasses.asdict(option.estimate),
        "peak_bytes": option.peak_bytes,
        "state_bytes": option.state_bytes,
        "bindings": settings.bindings(option.candidate),
        "gin": settings.gin(option.candidate),
    }


def as_lines(search: Search, settings: _Settings) -> list[str]:
    """Returns the best options, each with the lines of a gin file."""
    memory = search.device_memory
    limit = "" if memory is None else f", {memory:,} bytes of memory on each device"
    lines = [f"devices: {search.profile.name}{limit}"]
    for number, option in enumerate(search.ranking[:_PRINTED], 1):
        lines += ["", f"{number}. {option}", *settings.gin(option.candidate)]
    more = len(search.ranking[_PRINTED:])
    lines += [
        "",
        f"{more} more fit, {len(search.too_large)} need more memory, "
        f"{len(search.rejections)} cannot be compiled; --json prints all",
    ]
    if not search.ranking and search.too_large:
        lines.append(f"the one that needs the least memory: {search.too_large[0]}")
    return lines


def _profile(flags: argparse.Namespace) -> DeviceProfile:
    shipped = shipped_profiles()
    if flags.profile in shipped:
        return shipped[flags.profile]
    try:
        text = pathlib.Path(flags.profile).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--profile={flags.profile}: {error.strerror}; write it by mtfrun plan --calibrate "
            f"--devices={flags.devices} --profile={flags.profile}, or name {' or '.join(shipped)}"
        ) from None
    profile = DeviceProfile.from_json(text, flags.profile)
    profile.require_devices(flags.devices)
    return profile


class _Settings:
    def __init__(self, flags: argparse.Namespace):
        self._flags = flags
        bindings = self._parse([])
        self._names = {
            name: [name_to_override(bindings, parameter)]
            for name, parameter in {
                "mesh": "mtf.Mesh.shape",
                "layout": "mtf.Mesh.layout",
                "outer_batch": "experiment.Experiment.outer_batch",
                "microbatches": "training.TrainOptions.microbatches",
            }.items()
        }
        # Models bind this name in different classes.
        macros = macros_of(bindings)
        sources = [b.source(macros) for b in bindings if b.parameter == "rematerialise"]
        rematerialised = {source.name: source.value for source in sources}
        self._names["rematerialise"] = [*rematerialised]
        config.override(mtf.Mesh)  # gin knows the classes from now on, if it did not
        config.override(TrainOptions)
        self.axes = mtf.convert_to_shape(
            config.argument(mtf.Mesh, "shape", "data:1,model:1")
        ).dimension_names
        self._configured = {
            "outer_batch": config.argument(Experiment, "outer_batch", 1),
            "microbatches": config.argument(TrainOptions, "microbatches", 1),
            "rematerialise": all(rematerialised.values()) if rematerialised else None,
        }

    def one_device(self, outer_batch: int = 1) -> Candidate:
        alone = Candidate(mtf.Shape([("data", 1)]), mtf.LayoutRules(), outer_batch)
        return self.complete(alone)

    def complete(self, candidate: Candidate) -> Candidate:
        names = ("microbatches", "rematerialise")
        return dataclasses.replace(candidate, **{name: self._configured[name] for name in names})

    def training(self, candidate: Candidate) -> Training:
        self._parse(self.bindings(candidate))
        with mtf.planned_meshes():
            experiment, evaluation = build()
            return config.build(Training, experiment, evaluation)

    def bindings(self, candidate: Candidate) -> list[str]:
        """Returns the values of flags --gin_param that set up a candidate."""
        return [override(name, value) for name, value in self._values(candidate)]

    def gin(self, candidate: Candidate) -> list[str]:
        lines = [x for name, value in self._values(candidate) for x in _statements(name, value)]
        return list(dict.fromkeys(lines))

    def _values(self, candidate: Candidate) -> list[tuple[str, object]]:
        return [
            (bound, value)
            for name, value in candidate.settings.items()
            if name not in self._configured or value != self._configured[name]
            for bound in self._names[name]
        ]

    def _parse(self, lines: Sequence[str]) -> list[Binding]:
        flags = self._flags
        return config.parse(
            flags.gin_file,
            [*flags.bindings, *((f"--gin_param={line}", line) for line in lines)],
            search_paths=flags.gin_search_paths,
            roots=ROOTS,
        )


def _statements(name: str, value: object) -> list[str]:
    if "." not in name:
        return [override(name, value)]
    module = name.split(".", maxsplit=1)[0]
    imports = ["from __gin__ import dynamic_registration", f"from mtfrun import {module}"]
    return [*imports, override(name, value)]
