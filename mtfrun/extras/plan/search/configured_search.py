from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from mtfrun import mtf
from mtfrun.cli.command import settings_of
from mtfrun.configuration import config
from mtfrun.configuration.gin_values import override
from mtfrun.configuration.statements import macros_of, name_to_override
from mtfrun.display import progress
from mtfrun.display.formats import parse_size
from mtfrun.display.progress import waiting
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment, Training
from mtfrun.experiment.runs.opening import build
from mtfrun.extras.plan.plan import Plan, plan_training
from mtfrun.extras.plan.profile import SHIPPED_PROFILES, DeviceProfile
from mtfrun.extras.plan.search.calibration import calibrate
from mtfrun.extras.plan.search.candidates import Candidate, dimensions_of, layouts
from mtfrun.extras.plan.search.search import Search
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
    rankings = {"ranking": search.ranking, "too_large": search.too_large}
    rejected = [{"candidate": str(x), "reason": why} for x, why in search.rejections.items()]
    return {
        **{
            name: [
                {
                    **option.candidate.settings,
                    "step_secs": option.estimate.secs,
                    **dataclasses.asdict(option.estimate),
                    "peak_bytes": option.peak_bytes,
                    "state_bytes": option.state_bytes,
                    "bindings": settings.bindings(option.candidate),
                    "gin": settings.gin(option.candidate),
                }
                for option in options
            ]
            for name, options in rankings.items()
        },
        "rejected": rejected,
    }


def as_lines(search: Search, settings: _Settings) -> list[str]:
    """Returns the best options, each with the lines of a gin file."""
    memory, ranking, too_large = search.device_memory, search.ranking, search.too_large
    limit = "" if memory is None else f", {memory:,} bytes of memory on each device"
    lines = [f"devices: {search.profile.name}{limit}"]
    for number, option in enumerate(ranking[:_PRINTED], 1):
        lines += ["", f"{number}. {option}", *settings.gin(option.candidate)]
    more = f"{len(ranking[_PRINTED:])} more fit, {len(too_large)} need more memory"
    lines += ["", f"{more}, {len(search.rejections)} cannot be compiled; --json prints all"]
    if not ranking and too_large:
        lines.append(f"the one that needs the least memory: {too_large[0]}")
    return lines


def _profile(flags: argparse.Namespace) -> DeviceProfile:
    if flags.profile in SHIPPED_PROFILES:
        return SHIPPED_PROFILES[flags.profile]
    try:
        text = pathlib.Path(flags.profile).read_text(encoding="utf-8")
    except OSError as error:
        remedy = f"mtfrun plan --calibrate --devices={flags.devices} --profile={flags.profile}"
        raise InputError(
            f"--profile={flags.profile}: {error.strerror}; write it by {remedy}, or name "
            f"{' or '.join(SHIPPED_PROFILES)}"
        ) from None
    profile = DeviceProfile.from_json(text, flags.profile)
    profile.require_devices(flags.devices)
    return profile


class _Settings:
    def __init__(self, flags: argparse.Namespace):
        self._settings = settings_of(flags)
        bindings = self._settings.parse()
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
        lines: dict[str, None] = {}
        for line in self.bindings(candidate):
            module, dot, _ = line.partition(" = ")[0].partition(".")
            if dot:
                lines["from __gin__ import dynamic_registration"] = None
                lines[f"from mtfrun import {module}"] = None
            lines[line] = None
        return list(lines)
