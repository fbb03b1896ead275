"""The work of `mtfrun audit verify`: a training on meshes and on one device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.statements import Binding
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import Settings, build_training
from mtfrun.extras.audit.verify.comparison import (
    as_json,
    as_lines,
    compare,
    reference_lines,
    select_above,
)
from mtfrun.extras.audit.verify.first_difference import find_fault
from mtfrun.extras.audit.verify.observation import Observation, observe


def verify(flags: argparse.Namespace) -> bool:
    """Prints the comparisons; returns whether all meshes are equal to one device."""
    bindings = Settings.of_flags(flags).parse()
    config.override(mtf.Mesh)  # makes the class known to gin
    shape = mtf.convert_to_shape(config.argument(mtf.Mesh, "shape", "data:1,model:1"))
    rules = mtf.convert_to_layout_rules(config.argument(mtf.Mesh, "layout", "")).to_string
    meshes = [
        _Meshed(flags, bindings, mtf.convert_to_shape(mesh), rules if layout is None else layout)
        for mesh, layout in flags.meshes or [(shape, None)]
    ]
    largest = max(meshes, key=lambda mesh: mesh.shape.size)
    if largest.shape.size == 1:
        shape_text = largest.shape.to_string
        raise InputError(f"the mesh {shape_text} is one device: add --mesh=data:2,model:2")
    if flags.cpu:
        mtf.Mesh(devices=["CPU:0"])  # hides accelerators
    largest.bind()
    config.build(mtf.Mesh)
    alone = meshes[0]._replace(shape=mtf.Shape([axis._replace(size=1) for axis in meshes[0].shape]))
    expected = alone.observe()
    expected.require_finite()
    if not flags.json:
        print_lines(*reference_lines(expected))
    are_equal = True
    for mesh in meshes:
        here = mesh.observe(expected)
        differences, fault = compare(here, expected), None
        above = select_above(differences, flags.tolerance)
        if above:
            are_equal = False
            trainings = mesh.build(), alone.build()
            fault = find_fault(*trainings, expected, above[0], flags.tolerance)
        result = here, differences, flags.tolerance, fault
        if flags.json:
            print(json.dumps(as_json(*result), allow_nan=False), flush=True)
        else:
            print_lines("", *as_lines(*result))
    return are_equal


class _Meshed(NamedTuple):
    """A configuration on a mesh."""

    flags: argparse.Namespace
    bindings: Sequence[Binding]
    shape: mtf.Shape
    layout: str

    def bind(self) -> None:
        cpus = [f"CPU:{number}" for number in range(self.shape.size)] if self.flags.cpu else None
        shape = self.shape.to_string
        config.override(mtf.Mesh, shape=shape, layout=self.layout, devices=cpus)

    def build(self) -> Training:
        self.bind()
        training = build_training(self.bindings)
        if training.experiment.mesh.shape != self.shape:
            raise InputError("Experiment.mesh must be @mtf.Mesh(): audit verify sets its shape")
        return training

    def observe(self, expected: Observation | None = None) -> Observation:
        flags = self.flags
        decoding = {"decodes": flags.decodes, "decode_length": flags.decode_length}
        return observe(self.build(), flags.steps, expected, **decoding)
