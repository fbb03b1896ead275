"""The packages of mtfrun depend on each other in one direction only, and keep the house rules.

Everything here reads source text; nothing is imported. Each test checks one rule for all files.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
from typing import TypeGuard

from tests.reach import PATHS, ROOT, module_name, names_in_strings, runtime_nodes, uses
from tests.structure import (
    MODULES,
    SOURCES,
    TREES,
    entries_without_a_noun,
    imported_modules,
    imported_names,
    imports_between_sub_packages,
    package_of,
    parameter_counts,
    questions_of_kind,
)

# A room imports rooms with a lower number, and its own files: `docs/architecture.md`.
LEVELS = {
    "errors": 1,
    "configuration": 2,  # without TensorFlow, as processes and display
    "processes": 2,
    "mtf": 3,
    "display": 3,
    "layers": 4,
    "optim": 4,
    "decoding": 4,
    "files": 4,
    "data": 5,  # these three do not know each other
    "metrics": 5,
    "checkpoints": 5,
    "models": 6,
    "rundir": 6,
    "training": 7,
    "experiment": 8,
    "cli": 9,
    "api": 9,  # one file: the functions of `import mtfrun`
    "extras": 10,
    "__main__": 10,  # python -m mtfrun
}

# Which of its siblings a sub-package imports, an extra among the extras; the others import none.
SIBLINGS: dict[str, dict[str, set[str]]] = {
    "mtfrun.data": {
        "cache": {"sources", "vocabularies"},
        "images": {"cache", "rows", "sources"},
        "objectives": {"rows", "vocabularies"},
        "rows": {"cache"},
        "text": {"cache", "objectives", "rows", "vocabularies"},
    },
    "mtfrun.experiment": {
        "conversion": {"runs"},
        "evaluation": {"inference"},
        "runs": {"evaluation", "inference"},
    },
    "mtfrun.extras": {
        "audit": {"data_viewer", "sweeps"},
        "huggingface": {"text_tasks"},
        "mesh_tensorflow": {"huggingface", "vision"},
        "monitoring": {"report"},
        "report": {"data_viewer", "sweeps"},
        "saved_model": {"text_tasks", "vision"},
        "serving": {"constraints", "vision"},
    },
    "mtfrun.extras.audit": {"commands": {"verify"}},
    "mtfrun.extras.huggingface": {
        "families": {"tables", "tokenizers"},
        "tables": {"layers"},
        "tokenizers": {"tables"},
    },
    "mtfrun.extras.mesh_tensorflow": {"tensor2tensor": {"importer"}},
    "mtfrun.extras.sweeps": {"commands": {"analysis"}},
    "mtfrun.layers": {"losses": {"attention"}},
    "mtfrun.models": {"moe": {"transformer"}},
    "mtfrun.models.transformer": {"architectures": {"tokens"}},
    "mtfrun.mtf": {"ops": {"parameters", "placement"}, "parameters": {"placement"}},
    "mtfrun.mtf.ops": {"fused": {"control_flow"}},
}

MOST_PARAMETERS = 9

NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "misc", "helpers", "helper"}


def _name(path: pathlib.Path) -> str:
    """Returns the path below the repository's root."""
    return str(path.relative_to(ROOT))


def _assert_none(violations: list[str], remedy: str) -> None:
    assert not violations, "\n".join([remedy, *violations])


def test_a_package_imports_only_packages_of_a_lower_level() -> None:
    violations = []
    for path in SOURCES:
        package = package_of(module_name(path))
        if not package:
            continue
        assert package in LEVELS, f"{package} has no level; add it to the design, then to LEVELS"
        for name in imported_names(path):
            imported = package_of(name)
            is_ours = name.split(".")[0] == "mtfrun"
            if not is_ours or imported in ("", "__version__", package):
                continue
            if LEVELS.get(imported, LEVELS[package]) >= LEVELS[package]:
                violations.append(f"{_name(path)} imports {name}")
    _assert_none(violations, "only packages of a lower level may be imported, see LEVELS")


def test_sub_packages_import_only_the_siblings_that_are_declared() -> None:
    present = {
        package: {
            name: {used for used in siblings if _is_package(f"{package}.{used}")}
            for name, siblings in packages.items()
            if _is_package(f"{package}.{name}")
        }
        for package, packages in SIBLINGS.items()
    }
    declared = {
        package: {name: used for name, used in packages.items() if used}
        for package, packages in present.items()
    }
    assert imports_between_sub_packages() == {
        key: value for key, value in declared.items() if value
    }


def _is_package(name: str) -> bool:
    """Returns whether a package exists: an extra may be deleted."""
    return ROOT.joinpath(*name.split("."), "__init__.py").is_file()


def test_the_core_and_its_gin_files_name_no_extra() -> None:
    violations = [
        f"{_name(path)} imports {name}"
        for path in SOURCES
        for name in imported_names(path)
        if name.startswith("mtfrun.extras") and "extras" not in path.relative_to(ROOT).parts
    ]
    violations += [
        _name(path)
        for path in (ROOT / "gin").rglob("*.gin")
        if "extras" not in path.relative_to(ROOT).parts and "mtfrun.extras" in path.read_text()
    ]
    _assert_none(violations, "the core finds extras by entry points")


def test_nothing_imports_what_exists_for_parity_only() -> None:
    # Gin files and a user's own code name it.
    violations = [
        f"{_name(path)} imports {name}"
        for path in SOURCES
        for name in imported_names(path)
        if name.startswith("mtfrun.extras.mesh_tensorflow.parity")
        and not module_name(path).startswith("mtfrun.extras.mesh_tensorflow.parity")
    ]
    _assert_none(violations, "use mtfrun.layers or mtfrun.models")


def test_no_imports_form_a_cycle() -> None:
    # A facade imports the files beside it and they may import each other, so a file that imports
    # its own package's facade closes a cycle as well.
    graph = {module: imported_modules(path) for module, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError("imports form a cycle: " + " <- ".join(error.args[1])) from None


def test_types_form_no_cycle_either() -> None:
    # Imports under `if TYPE_CHECKING:` count here; what facades pass on is followed to its file.
    modules = [module for module in PATHS if module.startswith("mtfrun")]
    graph = {module: uses(module, with_types=True) for module in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError("types form a cycle: " + " <- ".join(error.args[1])) from None


def test_only_the_engine_uses_dtensor() -> None:
    violations = []
    for path in SOURCES:
        if "dtensor" not in path.read_text("utf-8"):
            continue
        attributes = {n.attr for n in ast.walk(TREES[path]) if isinstance(n, ast.Attribute)}
        is_imported = any("dtensor" in name.split(".") for name in imported_names(path))
        is_engine = module_name(path) == "mtfrun.mtf.placement.engine"
        if not is_engine and ("dtensor" in attributes or is_imported):
            violations.append(_name(path))
    _assert_none(violations, "only mtfrun/mtf/placement/engine.py may use DTensor")


def test_only_configuration_imports_gin() -> None:
    violations = [
        _name(path)
        for path in SOURCES
        if package_of(module_name(path)) != "configuration"
        and any(name.split(".")[0] == "gin" for name in imported_names(path))
    ]
    _assert_none(violations, "only mtfrun/configuration may import gin")


def test_no_file_raises_a_plain_value_error() -> None:
    # The command shows one as a defect, with its traceback; InputError is for the user to correct.
    violations = []
    for path in SOURCES:
        for node in ast.walk(TREES[path]) if "ValueError" in path.read_text("utf-8") else ():
            raised = node.exc if isinstance(node, ast.Raise) else None
            name = raised.func if isinstance(raised, ast.Call) else raised
            if isinstance(node, ast.Raise) and isinstance(name, ast.Name):
                violations += [f"{_name(path)}:{node.lineno}"] if name.id == "ValueError" else []
    _assert_none(violations, "raise an InputError")


def test_a_file_is_named_after_its_contents() -> None:
    violations = [
        _name(path)
        for path in SOURCES
        if {path.stem.strip("_"), *path.relative_to(ROOT).parts} & NAMES_THAT_SAY_NOTHING
    ]
    _assert_none(violations, "these names say nothing")


def test_nothing_has_more_than_nine_parameters() -> None:
    violations = [
        f"{_name(path)} {name}: {number}"
        for path in SOURCES
        for name, number in parameter_counts(TREES[path])
        if number > MOST_PARAMETERS
    ]
    _assert_none(violations, "so many parameters are a concept without a name: a frozen dataclass")


def test_an_init_file_holds_only_imports() -> None:
    violations = []
    for path in SOURCES:
        for position, node in enumerate(TREES[path].body if path.name == "__init__.py" else ()):
            is_docstring = position == 0 and isinstance(node, ast.Expr)
            is_dunder = isinstance(node, ast.Assign) and all(
                isinstance(target, ast.Name) and target.id in ("__all__", "__version__")
                for target in node.targets
            )
            is_lazy = ast.unparse(node).startswith("__all__, __getattr__ = lazy_exports(")
            is_import = all(
                isinstance(part, ast.Import | ast.ImportFrom)
                for part in ([*node.body, *node.orelse] if _is_for_types(node) else [node])
            )
            if not (is_docstring or is_dunder or is_import or is_lazy):
                violations.append(f"{_name(path)}:{node.lineno}: {ast.unparse(node)[:60]}")
    _assert_none(violations, "an __init__.py holds imports only")


def test_entries_of_arguments_are_noun_phrases() -> None:
    violations = [
        f"{_name(path)}: {entry}"
        for path in SOURCES
        for entry in entries_without_a_noun(TREES[path])
    ]
    _assert_none(violations, 'write "clock: the loop\'s clock", not "clock: of the loop"')


def _is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    """Returns whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_nothing_asks_for_the_kind_of_data_or_of_a_model() -> None:
    # Kinds differ in what their contract says: Data, Model, Inference, Evaluator.
    violations = [
        f"{_name(path)}:{call.lineno}: {ast.unparse(call)}"
        for path in SOURCES
        for call in questions_of_kind(TREES[path])
    ]
    _assert_none(violations, "give the base class a member instead")


def test_the_rules_would_notice_a_violation() -> None:
    tree = ast.parse("import typing\nif typing.TYPE_CHECKING:\n  import a\nelse:\n  import b\n")
    imported = [node.names[0].name for node in runtime_nodes(tree) if isinstance(node, ast.Import)]
    assert sorted(imported) == ["b", "typing"]
    asked = ["isinstance(x, data.ImageData)", "getattr(self._model, 'a', None)", "isinstance(x, A)"]
    asked.append("issubclass(model, ImageClassifier if of_text else TokenModel)")
    questions = questions_of_kind(ast.parse("\n".join(asked)))
    assert [call.lineno for call in questions] == [1, 2, 4]
    started = 'A = "mtfrun.a"\nf([x, "-m", A])\nf([x, "-m", "mtfrun"])\nimport_module("mtfrun.b")\n'
    assert names_in_strings(ast.parse(started)) == {"mtfrun.a", "mtfrun.b"}
    assert package_of("mtfrun.models.moe.router") == "models"
    assert "mtfrun" in MODULES
    wide = "@dataclass\nclass A:\n  x: int\n  y: int = 0\n  def f(self, a, /, b, *, c): pass\n"
    assert dict(parameter_counts(ast.parse(wide))) == {"A": 2, "A.f": 3}
    router = ROOT / "mtfrun" / "models" / "moe" / "router.py"
    assert "mtfrun.models.moe.routing" in imported_modules(router)
