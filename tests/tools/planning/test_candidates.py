"""The meshes and layouts that a search considers."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.tools.planning import Candidate, Dimensions, layouts

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


def test_an_axis_splits_only_what_it_divides() -> None:
    assert not any("heads" in names for names in TRANSFORMER.sets(8))


def test_a_dimension_of_few_numbers_is_not_worth_an_axis() -> None:
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


def test_axes_have_the_names_of_the_configuration() -> None:
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
        assert candidate.outer_batch == (
            sizes[rules["outer_batch"]] if "outer_batch" in rules else 1
        )


def test_an_outer_batch_alone_is_no_candidate() -> None:
    for candidate in layouts(MIXTURE, 8, most=1000):
        if "outer_batch" in candidate.layout:
            axis = candidate.layout["outer_batch"]
            assert [*candidate.layout.values()].count(axis) > 1
            assert "batch" in candidate.layout


def test_a_number_of_devices_that_divides_nothing_has_no_candidates() -> None:
    assert layouts(TRANSFORMER, 7) == []
