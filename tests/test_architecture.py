"""The packages of mtfrun depend on each other in one direction only, and keep the house rules.

Everything here reads source text; nothing is imported.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted((ROOT / "mtfrun").rglob("*.py"))
INITS = [path for path in SOURCES if path.name == "__init__.py"]

# A package imports only packages with a lower number, and its own files.
LEVELS = {
    "errors": -1,  # one file, which the command needs before TensorFlow is imported
    "mtf": 0,
    "layers": 1,
    "optim": 1,
    "data": 1,
    "rundir": 1,
    "decoding": 1,
    "models": 2,
    "ported": 3,
    "training": 3,
    "evaluation": 3,
    "experiment": 4,
    "cli": 5,
    "__main__": 6,  # python -m mtfrun
}

MOST_PARAMETERS = 9

# Constructors and dataclasses that have more; this set is to become empty.
WITH_MORE_PARAMETERS = {
    "Context",
}

# How the classes end of which nothing may ask whether an object is one.
KINDS = re.compile(
    r"(Data|Model|DecoderOnly|Encoder\w+|Classifier|Inference|Decoding|Classification|Measurement)$"
)

NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "misc", "helpers", "helper"}


def _name(path: pathlib.Path) -> str:
    """A readable test id: the path below the repository's root."""
    return str(path.relative_to(ROOT))


def _module(path: pathlib.Path) -> str:
    """The dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module(path): path for path in SOURCES}


def _package(module: str) -> str:
    """`mtfrun.models.moe.router` -> `models`; `mtfrun` itself -> ``."""
    return module.split(".")[1] if "." in module else ""


def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _runtime_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which nothing executes."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue.extend(node.orelse)
        else:
            queue.extend(ast.iter_child_nodes(node))


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of what a file imports, `from a import b` as `a.b`, relative ones resolved."""
    found = set()
    for node in _runtime_nodes(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = (*path.relative_to(ROOT).parts[: -node.level], *filter(None, [base]))
                base = ".".join(parts)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _imported_modules(path: pathlib.Path) -> set[str]:
    """The files of mtfrun that a file imports: the longest prefix of each name that is one."""
    modules = set()
    for name in _imports(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            modules.add(name)
    return modules - {_module(path)}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_package_imports_only_packages_of_a_lower_level(path: pathlib.Path) -> None:
    package = _package(_module(path))
    if not package:
        return
    assert package in LEVELS, f"{package} has no level; add it to the design, then to LEVELS"
    for name in _imports(path):
        if name.split(".")[0] != "mtfrun" or _package(name) in ("", "__version__", package):
            continue
        imported = _package(name)
        assert imported in LEVELS, f"{_name(path)} imports {name}, which has no level"
        assert LEVELS[imported] < LEVELS[package], (
            f"{_name(path)} imports {name}: level {LEVELS[package]} may not import level "
            f"{LEVELS[imported]}"
        )


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_imports_what_exists_for_parity_only(path: pathlib.Path) -> None:
    # Gin files and a user's own code name it.
    imported = {_package(name) for name in _imports(path) if name.startswith("mtfrun.")}
    if _package(_module(path)) == "ported":
        allowed = {"errors", "mtf", "layers", "models", "ported"}
        assert imported <= allowed, f"{_name(path)} imports {sorted(imported - allowed)}"
    else:
        assert "ported" not in imported, f"{_name(path)}: use mtfrun.layers or mtfrun.models"


def test_no_imports_form_a_cycle() -> None:
    # A facade imports the files beside it and they may import each other, so a file that imports
    # its own package's facade closes a cycle and is found as well.
    graph = {module: _imported_modules(path) for module, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError("imports form a cycle: " + " <- ".join(error.args[1])) from None


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_mtf_uses_dtensor(path: pathlib.Path) -> None:
    if _package(_module(path)) == "mtf":
        return
    tree = _tree(path)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = "dtensor" in attributes or any("dtensor" in name.split(".") for name in _imports(path))
    assert not used, f"{_name(path)} uses DTensor; only mtfrun/mtf may"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_cli_imports_gin(path: pathlib.Path) -> None:
    if _package(_module(path)) == "cli":
        return
    imported = [name for name in _imports(path) if name.split(".")[0] == "gin"]
    assert not imported, f"{_name(path)} imports gin; only mtfrun/cli may"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_file_raises_a_plain_value_error(path: pathlib.Path) -> None:
    # The command shows one as a defect, with its traceback; InputError is for the user to correct.
    for node in ast.walk(_tree(path)):
        raised = node.exc if isinstance(node, ast.Raise) else None
        name = raised.func if isinstance(raised, ast.Call) else raised
        is_plain = isinstance(name, ast.Name) and name.id == "ValueError"
        assert not is_plain, f"{_name(path)}:{getattr(node, 'lineno', 0)}: raise an InputError"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_file_is_named_after_what_it_holds(path: pathlib.Path) -> None:
    names = {path.stem.strip("_"), *path.relative_to(ROOT).parts}
    assert not names & NAMES_THAT_SAY_NOTHING, f"{_name(path)} has a name that says nothing"


def parameters_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The number of parameters of every function and dataclass, by qualified name; without self."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                yield name, sum(argument.arg not in ("self", "cls") for argument in arguments)
            elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                fields = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
                yield name, sum("ClassVar" not in f and "init=False" not in f for f in fields)
            yield from parameters_of(node, f"{name}.")
        else:
            yield from parameters_of(node, prefix)


def test_nothing_has_more_than_nine_parameters() -> None:
    numbers = {
        (_name(path), name): number
        for path in SOURCES
        for name, number in parameters_of(_tree(path))
        if number > MOST_PARAMETERS
    }
    above = {f"{path} {name}": n for (path, name), n in numbers.items()}
    assert {name for _, name in numbers} == WITH_MORE_PARAMETERS, (
        f"{above} have more than {MOST_PARAMETERS} parameters, which is a concept without a name: "
        "make it a frozen dataclass; what has fewer by now leaves WITH_MORE_PARAMETERS"
    )


@pytest.mark.parametrize("path", INITS, ids=_name)
def test_an_init_file_holds_only_imports(path: pathlib.Path) -> None:
    for position, node in enumerate(_tree(path).body):
        is_docstring = position == 0 and isinstance(node, ast.Expr)
        is_dunder = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id in ("__all__", "__version__")
            for target in node.targets
        )
        allowed = is_docstring or is_dunder or isinstance(node, ast.Import | ast.ImportFrom)
        assert allowed, f"{_name(path)}:{node.lineno} is not an import: {ast.unparse(node)[:60]}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_public_definitions_have_docstrings(path: pathlib.Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), f"{_name(path)} has no docstring"
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list):
            continue  # the implementation has the docstring
        assert ast.get_docstring(node), f"{_name(path)}:{node.lineno} {node.name}: no docstring"


def questions_of_kind(tree: ast.Module) -> list[ast.Call]:
    """Calls that ask of which kind data, a model or what is done with it is."""
    calls = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        words = [re.findall(r"\w+", ast.unparse(argument)) for argument in node.args]
        asks_for_class = node.func.id in ("isinstance", "issubclass")
        asks_for_member = node.func.id in ("getattr", "hasattr")
        if (asks_for_class and any(KINDS.search(word) for word in words[1])) or (
            asks_for_member and re.search(r"^_?(model|data|inference)$", words[0][-1])
        ):
            calls.append(node)
    return calls


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_asks_for_the_kind_of_data_or_of_a_model(path: pathlib.Path) -> None:
    # Kinds differ in what their contract says: Data, Model, Inference, Measurement.
    for call in questions_of_kind(_tree(path)):
        raise AssertionError(f"{_name(path)}:{call.lineno}: {ast.unparse(call)}")


def test_the_rules_would_notice_a_violation() -> None:
    tree = ast.parse("import typing\nif typing.TYPE_CHECKING:\n  import a\nelse:\n  import b\n")
    imported = [node.names[0].name for node in _runtime_nodes(tree) if isinstance(node, ast.Import)]
    assert sorted(imported) == ["b", "typing"]
    asked = ["isinstance(x, data.ImageData)", "getattr(self._model, 'a', None)", "isinstance(x, A)"]
    asked.append("issubclass(model, ImageClassifier if of_text else TokenModel)")
    questions = questions_of_kind(ast.parse("\n".join(asked)))
    assert [call.lineno for call in questions] == [1, 2, 4]
    assert _package("mtfrun.models.moe.router") == "models"
    assert "mtfrun" in MODULES
    wide = "@dataclass\nclass A:\n  x: int\n  y: int = 0\n  def f(self, a, /, b, *, c): pass\n"
    assert dict(parameters_of(ast.parse(wide))) == {"A": 2, "A.f": 3}
