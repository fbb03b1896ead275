"""Layouts that a search tries, and its choice."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mtfrun import mtf
from mtfrun.extras.plan.memory import Peak
from mtfrun.extras.plan.plan import Plan, PlannedVariable
from mtfrun.extras.plan.profile import DeviceProfile, Hosts, Link
from mtfrun.extras.plan.program import Block, Operation, Program, Value
from mtfrun.extras.plan.search.candidates import Candidate, Dimensions, layouts
from mtfrun.extras.plan.search.search import Search

TRANSFORMER = Dimensions(
    tuple(
        mtf.convert_to_shape(text)
        for text in (
            "vocab:384;d_model:128",
            "max_length:16;d_model:128",
            "d_model:128;heads:4;d_kv:32",
            "d_model:128;d_ff:512",
            "batch:8;length:128",
            "batch:8;length:128;d_model:128",
            "batch:8;heads:4;length:128;d_kv:32",
            "batch:8;heads:4;length:128;memory_length:128",
            "batch:8;length:128;d_ff:512",
            "batch:8;length:128;vocab:384",
        )
    ),
    frozenset(["vocab", "d_model", "max_length", "heads", "d_kv", "d_ff", "batch", "length"]),
    batch_size=8,
)
# The tokens of a batch go to experts, and come back.
MIXTURE = Dimensions(
    tuple(
        mtf.convert_to_shape(text)
        for text in (
            "experts:8;d_model:64;expert_hidden:128",
            "outer_batch:2;batch:4;length:64;d_model:64",
            "outer_batch:2;batch:4;experts_unsplit:8;capacity:16;d_model:64",
            "outer_batch:2;batch_unsplit:4;experts:8;capacity:16;d_model:64",
        )
    ),
    frozenset(["experts", "d_model", "expert_hidden", "outer_batch", "batch", "length"]),
    batch_size=8,
)


def _texts(candidates: list[Candidate]) -> list[str]:
    return [str(candidate) for candidate in candidates]


def test_an_axis_splits_all_dimensions_that_never_meet() -> None:
    assert TRANSFORMER.sets(4) == [
        frozenset(names)
        for names in (
            ["batch"],
            ["d_ff", "d_kv", "vocab"],
            ["d_ff", "heads", "vocab"],
            ["d_model"],
            ["length"],
        )
    ]
    # 8 parts do not divide the heads; a table of positions has few numbers.
    assert not any("heads" in names for names in TRANSFORMER.sets(8))
    assert not any("max_length" in names for names in TRANSFORMER.sets(2))


def test_the_usual_layouts_of_a_transformer_come_first() -> None:
    texts = _texts(layouts(TRANSFORMER, 8))
    assert "data:4,model:2  batch:data;vocab:model;heads:model;d_ff:model" in texts[:3]
    assert "data:8  batch:data" in texts
    assert "data:2,model:4  batch:data;vocab:model;heads:model;d_ff:model" in texts


def test_candidates_are_different_and_legal() -> None:
    candidates = layouts(TRANSFORMER, 8, most=100)
    assert len(set(candidates)) == len(candidates) > 28
    for candidate in candidates:
        assert candidate.mesh.size == 8
        with mtf.planned_meshes():
            mesh = mtf.Mesh(candidate.mesh, candidate.layout)
        for shape in TRANSFORMER.shapes:
            mesh.partition(shape)


def test_the_number_of_candidates_is_limited_for_every_number_of_axes() -> None:
    candidates = layouts(TRANSFORMER, 8, most=8)
    axes = [candidate.mesh.ndims for candidate in candidates]
    assert len(candidates) == 8
    assert [axes.count(number) for number in (1, 2, 3)] == [2, 4, 2]
    assert layouts(TRANSFORMER, 7) == []
    # Axes have the names of the configuration.
    for candidate in layouts(TRANSFORMER, 8, ["rows", "cols"]):
        names = candidate.mesh.dimension_names
        assert names == ["rows", "cols", "data"][: len(names)]


def test_experts_share_the_axis_of_the_batch_that_they_are_exchanged_for() -> None:
    texts = _texts(layouts(MIXTURE, 8, most=100))
    assert "data:8  batch:data;experts:data" in texts
    assert "data:8  batch:data" in texts  # every device has all experts
    layout = "batch:data;experts:data;outer_batch:model;expert_hidden:model"
    assert f"data:4,model:2  {layout}  outer_batch=2" in texts


def test_the_parts_of_a_batch_divide_its_rows() -> None:
    for candidate in layouts(MIXTURE, 16, most=1000):
        rules, sizes = candidate.layout, {axis.name: axis.size for axis in candidate.mesh}
        parts = [sizes[rules[name]] for name in ("batch", "outer_batch") if name in rules]
        assert 8 % (parts[0] if len(parts) == 1 else parts[0] * parts[1] if parts else 1) == 0
        if "outer_batch" not in rules:
            assert candidate.outer_batch == 1
            continue
        assert candidate.outer_batch == sizes[rules["outer_batch"]]
        # An outer batch alone is no candidate.
        assert "batch" in rules and [*rules.values()].count(rules["outer_batch"]) > 1


LINK = Link(0.0, 1e9)
# A second for every 1e9 bytes, sent or touched.
PROFILE = DeviceProfile(
    "made up",
    [(0, 0.0), (1e9, 1.0)],
    {"float32": [(0, 0.0), (1e12, 1.0)]},
    hosts=Hosts(8, LINK, LINK),
)


def _candidate(mesh: str, layout: str) -> Candidate:
    return Candidate(
        mtf.convert_to_shape(mesh), mtf.convert_to_layout_rules(layout), rematerialise=False
    )


DATA = _candidate("data:8", "batch:data")
MODEL = _candidate("model:8", "d_ff:model")
BOTH = _candidate("data:4,model:2", "batch:data;d_ff:model")
SECS = {DATA: 0.3, MODEL: 0.1, BOTH: 0.2}


def _plan(secs: float, state_bytes: int, peak_bytes: int) -> Plan:
    """Returns a plan of one operation, which takes so long."""
    value = Value(0, (round(secs * 1e9 / 8),), "f32")
    operation = Operation("Relu", (value,), (value,))
    with mtf.planned_meshes():
        mesh = mtf.Mesh("data:8")
    variable = PlannedVariable(
        "w", "parameters", mtf.convert_to_shape(""), (), state_bytes, state_bytes
    )
    return Plan(
        mesh=mesh,
        variables=(variable,),
        collectives=(),
        program=Program({"data": 8}, Block((), (operation,), ()), {}),
        peak=Peak(peak_bytes, "Relu", {}),
    )


def _needs(candidate: Candidate) -> Plan:
    """Splitting and rematerialising save memory; the latter, and microbatches, cost time."""
    base = next(secs for c, secs in SECS.items() if c.mesh == candidate.mesh)
    state, peak = 800, 800 // candidate.microbatches
    secs = base * (0.9 + 0.1 * candidate.microbatches)
    if "slots" in candidate.layout:
        state, secs = 400, secs * 0.95
    if "weights" in candidate.layout:
        state, secs = 200, secs * 1.05
    if candidate.rematerialise:
        peak, secs = peak // 2, secs * 1.3
    return _plan(secs, state, peak)


def _search(
    device_memory: float = math.inf,
    most: int = 40,
    plan: Callable[[Candidate], Plan] = _needs,
    notes: list[str] | None = None,
) -> Search:
    notes = [] if notes is None else notes
    search = Search(plan, PROFILE, device_memory, most=most, note=notes.append)
    search([DATA, MODEL, BOTH], max_microbatches=32)
    return search


def test_the_fastest_comes_first() -> None:
    ranking = _search().ranking
    secs = [option.estimate.secs for option in ranking]
    assert ranking[0].candidate == MODEL and secs == sorted(secs)
    # No time is spent for memory that is there.
    for option in ranking:
        assert not option.candidate.rematerialise and option.candidate.microbatches == 1


def test_slots_and_weights_are_split_over_the_axis_of_the_batch() -> None:
    layouts = [option.candidate.layout.to_string for option in _search().ranking]
    assert "batch:data;d_ff:model;slots:data" in layouts
    assert "batch:data;weights:data" in layouts
    assert not any("slots:model" in layout for layout in layouts)


def test_what_does_not_fit_is_made_smaller_until_it_does() -> None:
    outcome = _search(device_memory=400)
    assert outcome.ranking
    assert all(option.peak_bytes <= 400 for option in outcome.ranking)
    chosen = {option.candidate for option in outcome.ranking}
    assert any("weights" in c.layout and c.rematerialise for c in chosen)
    assert any(c.microbatches > 1 for c in chosen)
    sizes = [option.peak_bytes for option in outcome.too_large]
    assert sizes == sorted(sizes)
    assert min(sizes) > 400


def test_microbatches_stop_where_a_device_has_one_row() -> None:
    outcome = _search(device_memory=1)
    assert not outcome.ranking
    by_mesh = {"data:8": 8, "model:8": 1, "data:4;model:2": 4}
    for option in outcome.too_large:
        parts = by_mesh[option.candidate.mesh.to_string]
        assert 32 % (option.candidate.microbatches * parts) == 0


@pytest.mark.parametrize("most", [1, 5])
def test_no_more_than_so_many_are_planned(most: int) -> None:
    planned: list[Candidate] = []

    def plan(candidate: Candidate) -> Plan:
        planned.append(candidate)
        return _needs(candidate)

    outcome = _search(most=most, plan=plan)
    assert len(planned) == len(set(planned)) == most == len(outcome.ranking)


def test_a_layout_without_a_program_is_rejected_with_the_reason() -> None:
    def plan(candidate: Candidate) -> Plan:
        if candidate == BOTH:
            raise mtf.LayoutError("no such layout\nmore")
        return _needs(candidate)

    notes: list[str] = []
    outcome = _search(plan=plan, notes=notes)
    assert outcome.rejections == {BOTH: "no such layout"}
    assert f"{BOTH}: no program: no such layout" in notes
    assert BOTH not in [option.candidate for option in outcome.ranking]
