"""Sweeps: what files and flags say, their runs, names, records and results."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.sweeps.result import Results, RunResult, results_of
from mtfrun.extras.sweeps.sweep import Sweep, SweepRow
from mtfrun.extras.sweeps.sweep_file import alternatives, read_sweep_file, with_flags


def _sweep(*flags: str, files: Sequence[str] = (), sweep: Sweep | None = None) -> Sweep:
    pairs = [(flag, flag.removeprefix("--gin.").replace("=", " = ", 1)) for flag in flags]
    made = with_flags(sweep or Sweep([]), files, pairs)
    made.check()
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01, 0.03,1e-1", ["0.01", "0.03", "0.1"]),
        ("[1,2],[3,4]", ["[1, 2]", "[3, 4]"]),
        ("'a,b','c'", ["'a,b'", "'c'"]),
        ('"a\'b,",3', ['"a\'b,"', "3"]),
        ("@optim.Adam(),@scope/optim.SGD()", ["@optim.Adam()", "@scope/optim.SGD()"]),
        ("{'a': (1, 2)},None", ["{'a': (1, 2)}", "None"]),
        ("(1,2)", ["(1, 2)"]),
    ],
)
def test_commas_outside_of_brackets_and_quotes_separate_alternatives(
    text: str, expected: list[str]
) -> None:
    assert alternatives("--gin.X", f"X = {text}") == ("X", expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.X=1,"], "nothing stands beside a comma"),
        (["--gin.X="], "nothing stands beside a comma"),
        (["--gin.X=[1,2"], "--gin.X=[1,2: not a gin value"),
        (["--gin.X='a,b"], "--gin.X='a,b: not a gin value"),
        (["--gin.X=data:2,model:2"], "not a gin value: write values as in Python"),
        (["--gin.X=0.1,0.10"], "0.1 is there twice"),
        (["--gin.X=1,2", "--gin.X=3"], "--gin.X is given twice"),
        (["--gin.X=1,2", "--gin.X=3,4"], "--gin.X is given twice"),
        (["--gin.X=[1,2]", "--gin.Y=3"], "nothing varies"),
    ],
)
def test_what_is_ambiguous_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        _sweep(*flags)
    assert message in str(raised.value)


def test_names_say_what_differs_and_need_no_quotes() -> None:
    runs = _sweep("--gin.RATE=0.1,0.2", "--gin.Z=5", "--gin.O=@optim.Adam(),'a b/c'").runs()
    assert [run.name for run in runs] == [
        "RATE=0.1,O=optim.Adam",
        "RATE=0.1,O=a-b-c",
        "RATE=0.2,O=optim.Adam",
        "RATE=0.2,O=a-b-c",
    ]
    assert runs[1].bindings == {"RATE": "0.1", "O": "'a b/c'"}
    similar = _sweep("--gin.X='a/b','a b','" + 300 * "c" + "'").runs()
    assert [run.name for run in similar][:2] == ["X=a-b", "X=a-b-2"]
    assert len(similar[2].name) <= 120


def test_the_same_command_goes_on_and_another_is_refused(tmp_path: pathlib.Path) -> None:
    first = _sweep("--gin.X=1,2", "--gin.Y=3", files=["a.gin"])
    Results(tmp_path).write_sweep(first)
    read = Results(tmp_path).sweep()
    assert read == first
    more = _sweep("--gin.X=2,4", "--gin.Y=3", files=["a.gin"])
    assert read.continue_with(more, tmp_path).grid == {"X": ["1", "2", "4"]}
    # The names of runs do not depend on the order of flags.
    two, swapped = (
        _sweep("--gin.A=1,2", "--gin.B=3,4"),
        Sweep([], grid={"B": ["3", "4"], "A": ["2"]}),
    )
    whole = two.continue_with(_sweep("--gin.B=3,4", "--gin.A=1,2"), tmp_path)
    assert whole.runs() == two.runs()
    assert [run.name for run in whole.runs_of(swapped)] == ["A=2,B=3", "A=2,B=4"]
    for flags, files, message in [
        (["--gin.X=1,2", "--gin.Y=4"], ["a.gin"], "Y 3 -> 4"),
        (["--gin.X=1,2"], ["a.gin"], "Y 3 -> (none)"),
        (["--gin.X=1,2", "--gin.Y=3"], ["b.gin"], "gin files a.gin -> b.gin"),
        (["--gin.X=1,2", "--gin.Z=1,2", "--gin.Y=3"], ["a.gin"], "varied X -> X, Z"),
    ]:
        with pytest.raises(InputError) as raised:
            read.continue_with(_sweep(*flags, files=files), tmp_path)
        assert message in str(raised.value)


RECORD: dict[str, object] = {
    "gin_files": [],
    "bindings": {},
    "rows": {},
    "grid": {},
    "seeds": [0, 1],
    "search": {},
}
CHANGES: list[dict[str, Any]] = [
    *({"more": 1}, {"gin_files": "a"}, {"bindings": []}, {"gin_files": [1]}),
    *({"bindings": {"a": 1}}, {"grid": {"a": "b"}}, {"rows": {"a": []}}),
    *({"seeds": ["1"]}, {"seeds": 3}, {"metric": 1}, {"baseline": "b"}),
    *({"max_minutes": "4"}, {"rows": {"a": {"bindings": {"b": 1}, "gin_files": []}}}),
]


@pytest.mark.parametrize(
    "text",
    [*("{}", "[" * 100_000, "[]", "{"), *(json.dumps({**RECORD, **change}) for change in CHANGES)],
)
def test_a_forged_record_of_a_sweep_is_one_line(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep.json is not a record of a sweep"):
        Results(tmp_path).sweep()


FILE = """
Sweep.gin_files = ["runs/quickstart.gin"]
Sweep.bindings = {"TRAIN_STEPS": 5}
Sweep.rows = {
    "baseline": {},
    "SwiGLU / 344": {"transformer.FeedForward.activation": @mtf.swish, "D_FF": 344},
    "mixture": {"gin_files": ["models/lm_small.gin"]},
}
Sweep.grid = {"LEARNING_RATE": [0.01, 0.03]}
Sweep.seeds = 2
Sweep.metric = "bits_per_byte"
Sweep.baseline = "baseline"
Sweep.max_minutes = 4
"""


def test_a_file_has_rows_a_grid_and_seeds(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.gin").write_text(FILE)
    sweep = read_sweep_file("a.gin", [str(tmp_path)])
    sweep.check()
    runs = sweep.runs()
    assert len(runs) == 12 and runs[0].name == "baseline,LEARNING_RATE=0.01,SEED=0"
    swiglu = runs[5]
    assert swiglu.name == "SwiGLU-344,LEARNING_RATE=0.01,SEED=1"
    assert swiglu.row == "SwiGLU / 344,LEARNING_RATE=0.01"
    assert swiglu.baseline == "baseline,LEARNING_RATE=0.01"
    assert swiglu.bindings == {
        **{"transformer.FeedForward.activation": "@mtf.swish", "D_FF": "344"},
        **{"LEARNING_RATE": "0.01", "SEED": "1"},
    }
    assert runs[-1].gin_files == ["models/lm_small.gin"]
    Results(tmp_path).write_sweep(sweep)
    assert Results(tmp_path).sweep() == sweep
    with_flag = _sweep("--gin.TRAIN_STEPS=9", sweep=sweep)
    assert with_flag.bindings == {"TRAIN_STEPS": "9"}
    with pytest.raises(InputError, match="row 'SwiGLU / 344' sets D_FF: change it there"):
        _sweep("--gin.D_FF=9", sweep=sweep)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Sweep.row = {}", "a.gin:14: Sweep has no parameter 'row', did you mean 'rows'?"),
        ("Sweep.rowes = {}", "did you mean 'rows'?"),
        ("TRAIN_STEPS = 5", 'write Sweep.bindings = {"TRAIN_STEPS": 5}'),
        ("Sweep.seeds = 0", "a.gin:14: Sweep.seeds is 0: it must be an integer of at least 1"),
        ("Sweep.rows = {'a': {}, 'a': {}}", "a.gin:14: The key 'a' is there twice"),
        ("Sweep.rows = {'a': {'SEED': 3}}", "row 'a' sets SEED: write Sweep.seeds = 3"),
        ("Sweep.rows = {'a': {'D FF': 3}}", "a.gin:14: 'D FF' is not the name of a setting"),
        ("Sweep.rows = {'a': {'gin_files': 'b.gin'}}", "a.gin:14: row 'a': SweepRow.gin_files is"),
        ("Sweep.rows = ['a']", "a.gin:14: Sweep.rows is ['a']: it must be a dictionary"),
        ("Sweep.rows = {'a': 4}", "a.gin:14: Sweep.rows is {'a': 4}, with 4: it must be a dict"),
        ("Sweep.rows = {' ': {}}", "a.gin:14: ' ' is not a name: write letters and digits"),
        ("import my_layers", "a.gin: a sweep file imports no modules: import my_layers in"),
        ("Sweep.grid = {'D_FF': 3}", "a.gin:14: Sweep.grid is {'D_FF': 3}, with 3: it"),
        ("Sweep.grid = {'D_FF': []}", "a.gin:14: D_FF has no values: write them"),
        ("Sweep.grid = {'D_FF': [3, 3]}", "a.gin:14: D_FF: 3 is there twice"),
        ("Sweep.baseline = 'basline'", "no row has this name, did you mean 'baseline'?"),
        ("Sweep.metric = 3", "a.gin:14: Sweep.metric is 3: it must be str or None"),
        ("Sweep.max_minutes = -1", "Sweep.max_minutes is -1: it must be more than 0"),
        ("Sweep.gin_files = []", "names no gin file"),
        ("Sweep.grid = {'D_FFF': [3, 4]}", "D_FFF has no effect: nothing uses it, did you mean"),
    ],
)
def test_mistakes_in_a_file_are_one_line(line: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.gin").write_text(f"{FILE}{line}\n")
    with pytest.raises(InputError) as raised:
        sweep = read_sweep_file("a.gin", [str(tmp_path)])
        if "baseline" not in sweep.rows:
            sweep = dataclasses.replace(sweep, baseline=None)
        sweep.check()
        for run in sweep.runs():
            sweep.configuration_hash(run, [])
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_rows_and_seeds_may_be_added_and_nothing_else_may_change(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.gin").write_text(FILE)
    first = read_sweep_file("a.gin", [str(tmp_path)])
    wider = {**first.rows, "wider": SweepRow(bindings={"D_FF": "500"})}
    more = dataclasses.replace(first, rows=wider, seeds=[0, 1, 2], max_minutes=9)
    whole = first.continue_with(more, tmp_path)
    assert len(whole.runs()) == 24 and whole.max_minutes == 9
    changed = {**first.rows, "baseline": SweepRow(bindings={"D_FF": "500"})}
    with pytest.raises(InputError, match=r"row baseline: D_FF \(none\) -> 500; give"):
        first.continue_with(dataclasses.replace(first, rows=changed), tmp_path)


def test_a_sweep_has_the_name_and_the_question_of_its_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.gin").write_text(f"# Is SwiGLU\n# better? It\n# may be.\n\n# Other.\n{FILE}")
    sweep = read_sweep_file("a.gin", [str(tmp_path)])
    assert (sweep.name, sweep.question) == ("a", "Is SwiGLU better?")
    former = dataclasses.replace(sweep, name="", question="")
    # A record of an older version gets them when its sweep continues.
    assert former.continue_with(sweep, tmp_path) == sweep
    assert sweep.continue_with(former, tmp_path) == sweep


def test_the_hash_is_of_settings_not_of_their_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.gin").write_text("include 'runs/quickstart.gin'\nD_FF = 5\nUNUSED = 3\n")
    copied = Sweep([str(tmp_path / "a.gin")], {"TRAIN_STEPS": "9"}, seeds=[0, 1])
    flags = Sweep(["runs/quickstart.gin"], {"D_FF": "5", "TRAIN_STEPS": "9"}, seeds=[0, 1])
    hashes = [s.configuration_hash(run, []) for s in (copied, flags) for run in s.runs()]
    assert hashes[:2] == hashes[2:] and hashes[0] != hashes[1]


def test_results_are_read_in_the_order_of_the_sweep(tmp_path: pathlib.Path) -> None:
    sweep = Sweep(["a.gin"], grid={"X": ["1", "2"]}, seeds=[0, 1])
    Results(tmp_path).write_sweep(sweep)
    run = sweep.runs()[2]
    result = RunResult(run.name, run.row, 0, run.values, "finished", metrics={"loss": 1.0})
    for folder in (tmp_path, tmp_path / "results"):
        Results(folder).write(result)
        _, results = results_of(tmp_path)
        assert [r.state for r in results] == ["missing", "missing", "finished", "missing"]
        assert results[2] == result
    with pytest.raises(InputError, match=r"has no sweep.json"):
        results_of(tmp_path / "results")


def test_a_file_of_lines_has_a_sweep_and_its_results(tmp_path: pathlib.Path) -> None:
    sweep = Sweep(["a.gin"], grid={"X": ["1", "2"]}, seeds=[0, 1])
    path = tmp_path / "results" / "sweep.jsonl"
    assert Results(path).sweep() is None
    for seeds in ([0], [0, 1]):
        Results(path).write_sweep(dataclasses.replace(sweep, seeds=seeds))
        for run in sweep.runs()[:2]:
            result = RunResult(run.name, run.row, 0, run.values, "finished", step=len(seeds))
            Results(path).write(result)
    assert [*path.parent.iterdir()] == [path] and len(path.read_text().splitlines()) == 3
    read, results = results_of(path)
    assert read == sweep and Results(path).read()[result.name] == result
    assert [(r.state, r.step) for r in results[::2]] == [("finished", 2), ("missing", 0)]
    whole = path.read_text()
    for old, new in (('"seed": 0', '"seed": "0"'), ('"parameters": null', '"parameters": "x"')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(InputError, match=r"sweep.jsonl, line 2, is not the result of a run"):
            results_of(path)
    path.write_text("")
    with pytest.raises(InputError, match=r"sweep.jsonl is not a record of a sweep"):
        results_of(path)


def test_a_text_of_a_row_or_of_all_runs_may_have_the_seed_in_it() -> None:
    row = SweepRow(bindings={"INIT_CHECKPOINT": "'/a/x,SEED={SEED}'"})
    sweep = Sweep(["x.gin"], {"NAME": "'{SEED}'", "STEPS": "1"}, {"x": row}, seeds=[0, 7])
    assert [run.values for run in sweep.runs()] == [
        {"NAME": f"'{seed}'", "INIT_CHECKPOINT": f"'/a/x,SEED={seed}'"} for seed in (0, 7)
    ]
