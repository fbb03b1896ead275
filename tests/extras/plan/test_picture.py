"""A plan is described and drawn, and layouts that could be better are noticed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from mtfrun import mtf
from mtfrun.extras.plan.description import find_replicated, picture
from mtfrun.extras.plan.memory import Peak
from mtfrun.extras.plan.plan import PARAMETERS, SLOTS, Plan, PlannedVariable
from mtfrun.extras.plan.program import Block, Collective, Program

GRADIENTS = Collective("all-reduce", ("data",), 4, 4096, (64, 16), (None,) * 2)


@pytest.fixture
def plan() -> Plan:
    """A table and its slot on 4 x 2 devices; another matrix is split over `model`."""
    with mtf.planned_meshes():
        mesh = mtf.Mesh("data:4,model:2", "batch:data;d_ff:model")
    for shape in (
        "batch:8;d_model:16",
        "vocab:64;d_model:16",
        "d_model:16;d_ff:32",
        "batch:8;odd:3",
    ):
        mesh.partition(shape)
    return Plan(
        mesh,
        (
            _variable(mesh, "table", PARAMETERS, "vocab:64;d_model:16"),
            _variable(mesh, "kernel", PARAMETERS, "d_model:16;d_ff:32"),
            _variable(mesh, "table/v", SLOTS, "vocab:64;d_model:16"),
            _variable(mesh, "bias", PARAMETERS, "odd:3"),
        ),
        [(GRADIENTS, 2)],
        Program({"data": 4, "model": 2}, Block((), (), ()), {}),
        Peak(10_000, "Einsum", {"Einsum": 10_000}),
    )


def _variable(mesh: mtf.Mesh, path: str, kind: str, text: str) -> PlannedVariable:
    shape = mtf.convert_to_shape(text)
    local = 4 * mtf.Shape(zip("abc", mesh.local_sizes(shape), strict=False)).size
    return PlannedVariable(path, kind, shape, mesh.partition(shape), 4 * shape.size, local)


def test_rules_that_fit_all_shapes_are_named_by_what_they_save(plan: Plan) -> None:
    over_data, over_model = find_replicated(plan)
    table, kernel = 4 * 64 * 16, 4 * 16 * 32 // 2
    assert over_data.device_bytes == 2 * table + kernel + 12
    # d_model:data fits no shape with a batch, and d_ff has a rule.
    assert [*over_data.rules.items()] == [
        ("weights:data", (2 * table + kernel) * 3 // 4),
        ("vocab:data", 2 * table * 3 // 4),
        ("slots:data", table * 3 // 4),
    ]
    assert over_model.device_bytes == 2 * table + 12
    assert over_model.rules == {
        "weights:model": 2 * table // 2,
        "vocab:model": 2 * table // 2,
        "slots:model": table // 2,
    }


def test_seconds_are_those_of_the_axes_whose_bandwidth_is_known(plan: Plan) -> None:
    sent = 2 * 2 * 4096 * 3 / 4
    assert plan.collective_seconds({"data": 1000.0}) == {"data": sent / 1000}
    assert plan.collective_seconds({"model": 1000.0}) == {}


def test_the_drawing_has_a_box_for_each_device_and_bars_within_it(plan: Plan) -> None:
    memory = 4 * plan.peak_bytes
    root = ElementTree.fromstring(picture(plan, memory))
    widths = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        name = group.get("id") or ""
        if name.startswith(("device_", "bar_")):
            corners = group[0].get("d", "").replace("M", "").replace("z", "").split("L")
            sides = [float(corner.split()[0]) for corner in corners]
            widths[name] = max(sides) - min(sides)
    assert sum(name.startswith("device_") for name in widths) == 8 and len(widths) == 8 * (1 + 4)
    used = sum(width for name, width in widths.items() if name.startswith("bar_0_"))
    assert 0.2 < used / widths["device_0"] < 0.26  # a quarter of the memory
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "→ model (2): splits d_ff" in texts and "↓ data (4): splits batch" in texts
