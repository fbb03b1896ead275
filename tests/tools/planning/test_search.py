"""The ranking of candidates, with plans that are made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mtfrun import mtf
from mtfrun.tools.planning import (
    Block,
    Candidate,
    Curve,
    DeviceProfile,
    HostNetwork,
    Link,
    Operation,
    Option,
    Outcome,
    Peak,
    Plan,
    PlannedVariable,
    Program,
    Rejection,
    Search,
    TensorType,
    Value,
)

LINK = Link(0.0, 1e9)
# A second for every 1e9 bytes, sent or touched.
PROFILE = DeviceProfile(
    "made up",
    Curve.line(0.0, 1e9),
    {"float32": Curve.line(0.0, 1e12)},
    HostNetwork(8, LINK, LINK),
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
    value = Value(0, TensorType((round(secs * 1e9 / 8),), "f32"))
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
    device_memory: int | None = None,
    most: int = 40,
    plan: Callable[[Candidate], Plan] = _needs,
    notes: list[Option | Rejection] | None = None,
) -> Outcome:
    note = (lambda _: None) if notes is None else notes.append
    search = Search(plan, PROFILE, device_memory, most=most, note=note)
    return search([DATA, MODEL, BOTH], max_microbatches=32)


def test_the_fastest_comes_first() -> None:
    ranking = _search().ranking
    secs = [option.estimate.secs for option in ranking]
    assert ranking[0].candidate == MODEL
    assert secs == sorted(secs)


def test_slots_and_weights_are_split_over_the_axis_of_the_batch() -> None:
    layouts = [option.candidate.layout.to_string for option in _search().ranking]
    assert "batch:data;d_ff:model;slots:data" in layouts
    assert "batch:data;weights:data" in layouts
    assert not any("slots:model" in layout for layout in layouts)


def test_time_is_not_spent_for_memory_that_is_there() -> None:
    for option in _search().ranking:
        assert not option.candidate.rematerialise
        assert option.candidate.microbatches == 1


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


@pytest.mark.parametrize("most", [1, 2, 5])
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

    notes: list[Option | Rejection] = []
    outcome = _search(plan=plan, notes=notes)
    (rejection,) = outcome.rejections
    assert (rejection.candidate, rejection.reason) == (BOTH, "no such layout")
    assert rejection in notes
    assert "no program: no such layout" in str(rejection)
    assert BOTH not in [option.candidate for option in outcome.ranking]


def test_an_error_that_is_no_answer_passes() -> None:
    def plan(candidate: Candidate) -> Plan:
        raise KeyError(candidate)

    with pytest.raises(KeyError):
        _search(plan=plan)
